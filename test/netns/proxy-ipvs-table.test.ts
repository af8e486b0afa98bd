import test from 'ava';
import { families, type Ip } from '../../core/address.ts';
import { NftTable, openNftSocket } from '../../kernel/nftables.ts';
import { ipvsLayout } from '../../proxy/ipvs/layout.ts';
import { IpvsPlan } from '../../proxy/ipvs/plan.ts';
import { nodeElements, podDetector } from '../../proxy/nftables/node-elements.ts';
import type { ProxyPolicy } from '../../proxy/policy.ts';
import { type NftSpace, openNftSpace } from './nftables-space.ts';
import { policy, SERVICE_CIDRS, viewsOf } from './proxy-backend-lab.ts';
import { services } from './proxy-flows.ts';

/* The table of nftables beside IPVS, on kernels that have no IPVS as well. */

function planOf(its = services): IpvsPlan {
  const plan = new IpvsPlan({ scheduler: 'rr', drainMs: 0, now: () => 0 });
  const nodePortIps = { 4: ['192.0.2.1' as Ip], 6: ['2001:db8::1' as Ip] };
  const elements = (family: 4 | 6) =>
    nodeElements(family, policy.detectLocal, { nodePortIps, serviceCidrs: SERVICE_CIDRS });
  plan.setNode(
    { nodePortIps, foreignIps: new Set(), schedulers: new Set(['rr']) },
    { 4: elements(4), 6: elements(6) },
  );
  plan.follow(viewsOf(its));
  return plan;
}

function tablesOf(space: NftSpace, plan: IpvsPlan, changes: Partial<ProxyPolicy> = {}) {
  const stack = new DisposableStack();
  const socket = stack.use(openNftSocket({ namespaceFd: space.fd }));
  const { masqueradeAll, masqueradeBit, detectLocal } = { ...policy, ...changes };
  const tables = families.map((family) => {
    const layout = ipvsLayout({
      family,
      detector: podDetector(family, detectLocal),
      masqueradeAll,
      masqueradeBit,
    });
    return new NftTable({ socket, layout, rows: () => plan.elements[family].values() });
  });
  return { tables, stack };
}

test('nft lists the table with services of every kind, and its list loads again', async (t) => {
  for (const detectLocal of [
    policy.detectLocal,
    { mode: 'none' },
    { mode: 'bridge', name: 'cni0' },
  ] as const) {
    const space = openNftSpace(t);
    const { tables, stack } = tablesOf(space, planOf(), { detectLocal });
    using _ = stack;
    for (const table of tables) t.deepEqual((await table.rebuild()).failures, []);
    const list = space.nft('list ruleset');
    const elsewhere = openNftSpace(t);
    elsewhere.load(list);
    t.is(elsewhere.nft('list ruleset'), list);
  }
});

test('what is read back is what was wanted', async (t) => {
  const space = openNftSpace(t);
  const plan = planOf();
  const { tables, stack } = tablesOf(space, plan);
  using _ = stack;
  for (const [index, table] of tables.entries()) {
    await table.rebuild();
    const wanted = plan.elements[families[index] as 4 | 6].rows();
    t.deepEqual([...(await table.read()).keys()].toSorted(), [...wanted.keys()].toSorted());
    t.true(wanted.size > 50);
  }
});

test('services are elements: there are no more rules for many', async (t) => {
  const counts = [];
  for (const some of [services.slice(0, 1), services]) {
    const space = openNftSpace(t);
    const { tables, stack } = tablesOf(space, planOf(some));
    using _ = stack;
    for (const table of tables) await table.rebuild();
    const list = space.nft('-t list ruleset');
    counts.push([...list.matchAll(/^\tchain /gm)].length, [...list.matchAll(/ comment "/g)].length);
  }
  t.deepEqual(counts.slice(0, 2), counts.slice(2));
});
