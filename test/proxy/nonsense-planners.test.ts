import { isDeepStrictEqual } from 'node:util';
import test from 'ava';
import fc from 'fast-check';
import { type Family, families, type Ip } from '../../core/address.ts';
import { decodeElements } from '../../kernel/netlink/nftables/decode-elements.ts';
import { elementEncoder } from '../../kernel/netlink/nftables/encode-elements.ts';
import { type NftElement, type NftSet, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { V1EndpointSlice, V1Service } from '../../kube/types.ts';
import type { Views } from '../../proxy/backend.ts';
import { ruleContext } from '../../proxy/iptables/context.ts';
import { renderEdit } from '../../proxy/iptables/edit.ts';
import { type IpvsLayoutOptions, ipvsLayout } from '../../proxy/ipvs/layout.ts';
import { IpvsPlan } from '../../proxy/ipvs/plan.ts';
import { leastCapacity } from '../../proxy/nftables/capacity.ts';
import { proxyLayout } from '../../proxy/nftables/layout.ts';
import { FamilyPlan } from '../../proxy/nftables/plan.ts';
import type { ServicePortView } from '../../proxy/view.ts';
import { ServiceViews } from '../../proxy/views.ts';
import { FakeIptables } from './iptables/fake-iptables.ts';
import { policy, started } from './iptables/script.ts';
import { expectedReach } from './model.ts';
import { nonsenseStep } from './nonsense.ts';
import { parseService, parseSlice } from './objects.ts';
import { reachability } from './reachability.ts';

/*
 * What comes of nonsense goes on to the planners, change by change, beside a good Service: they take all of it, what
 * they want is what a kernel takes, and the good Service has what it has alone.
 */

const NODE = '192.0.2.1' as Ip;
const GOOD = 'good/web';
const words = 'type=LoadBalancer ips=10.96.0.10,fd00:96::10 lb=10.98.0.10 outside=Local affinity=60';
const good = parseService(`${GOOD} ${words} ports=http:80@30080,dns:53/UDP ranges=192.0.2.0/24`);
const goodSlices = [
  parseSlice('good/web-4 service=web ports=http:8080,dns:53/UDP 10.244.1.5,node=here 10.244.1.6'),
  parseSlice('good/web-6 service=web family=IPv6 ports=http:8080,dns:53/UDP fd00:244::5,node=here'),
];

/** Views of the good Service and of what comes and goes beside it. */
class Objects {
  readonly #services = new Map<string, V1Service>([[GOOD, good]]);
  readonly #slices = new Map(goodSlices.map((slice, index) => [`good/web-${index}`, slice]));
  readonly views = new ServiceViews(
    { services: this.#services, slices: this.#slices },
    { nodeName: 'here', zone: 'a', nodeIps: [NODE] },
  );

  constructor() {
    this.views.markService(GOOD);
    for (const key of this.#slices.keys()) this.views.markSlice(key);
  }

  change({ kind, key, object }: typeof nonsenseStep extends fc.Arbitrary<infer T> ? T : never): void {
    if (kind === 'service') put(this.#services, key, object as V1Service | null);
    else put(this.#slices, key, object as V1EndpointSlice | null);
    if (kind === 'service') this.views.markService(key);
    else this.views.markSlice(key);
  }
}

function put<V>(map: Map<string, V>, key: string, value: V | null): void {
  if (value === null) map.delete(key);
  else map.set(key, value);
}

/** One planner, and what it has to stand. */
interface Planner {
  put(service: string, ports: readonly ServicePortView[]): void;
  /** After each round of changes: throws where a kernel would refuse, or do other than the views say. */
  check(views: Views): void;
  /** Everything that is wanted, by some name of it. */
  wanted(): ReadonlyMap<string, unknown>;
  readonly problems: ReadonlyMap<string, string>;
}

function checkEncoding(elements: readonly NftElement[], sets: readonly NftSet[]): void {
  for (const set of sets) {
    const its = elements.filter((element) => element.set === set.name);
    const messages = elementEncoder({ family: 'ip', table: 'test' }, set).add(its);
    const keys = (list: readonly NftElement[]) => new Set(list.map(nftElementKey));
    if (its.length > 0) check(isDeepStrictEqual(keys(decodeElements(set, messages)), keys(its)), set.name);
  }
}

const options = { detector: 'networks', masqueradeAll: false, masqueradeBit: 14 } as const;

function nftables(family: Family): Planner {
  const plan = FamilyPlan.of(family, new Map());
  const { sets } = proxyLayout({ family, ...options, nodePortsOn: 'set', capacity: leastCapacity });
  return {
    put: (service, ports) => plan.put(service, ports),
    check(views) {
      plan.drain();
      const elements = [...plan.elements()];
      const byKey = new Map(elements.map((element) => [nftElementKey(element), element]));
      const reached = reachability(byKey, family);
      const expected = expectedReach(views, family);
      check(isDeepStrictEqual(new Map([...reached].sort()), new Map([...expected].sort())), [...reached]);
      checkEncoding(elements, sets);
    },
    // Elements hold numbers that are given out as services come: what they mean is the same.
    wanted: () => {
      const all = new Map(Array.from(plan.elements(), (element) => [nftElementKey(element), element]));
      return reachability(all, family);
    },
    problems: plan.problems,
  };
}

function iptables(family: Family): Planner {
  const kernel = new FakeIptables();
  const { plan } = started(ruleContext(family, policy, true), kernel, new Map()).half;
  return {
    put: (service, ports) => plan.put(service, ports),
    check: () => kernel.restore(renderEdit(plan.drain())),
    wanted: () =>
      new Map(
        Array.from(kernel.saved()).flatMap(([chain, rules]) =>
          rules.map((rule) => [`${chain} ${rule}`, true]),
        ),
      ),
    problems: plan.problems,
  };
}

function ipvs(): Planner {
  const plan = new IpvsPlan({ scheduler: 'rr', drainMs: 0, now: () => 0 });
  const node = { nodePortIps: { 4: [NODE], 6: [] }, foreignIps: new Set([NODE]) };
  plan.setNode({ ...node, schedulers: new Set(['rr', 'wrr', 'mh']) }, { 4: [], 6: [] });
  const rows = () => ({
    addresses: plan.addresses.rows(),
    servers: plan.servers.rows(),
    destinations: plan.destinations.rows(),
    elements4: plan.elements[4].rows(),
    elements6: plan.elements[6].rows(),
  });
  return {
    put: (service, ports) => plan.put(service, ports),
    check() {
      plan.drain();
      for (const { server } of plan.destinations.values())
        check(
          [...plan.servers.values()].some(({ ip, port }) => ip === server.ip && port === server.port),
          server,
        );
      for (const family of families) {
        const { sets } = ipvsLayout({ family, ...options } satisfies IpvsLayoutOptions);
        checkEncoding([...plan.elements[family].values()], sets);
      }
    },
    wanted: () =>
      new Map(
        Object.entries(rows()).flatMap(([table, its]) =>
          Array.from(its as ReadonlyMap<string, unknown>, ([key, row]) => [`${table} ${key}`, row] as const),
        ),
      ),
    problems: plan.problems,
  };
}

const planners: Readonly<Record<string, () => Planner>> = {
  'nftables IPv4': () => nftables(4),
  'nftables IPv6': () => nftables(6),
  'iptables IPv4': () => iptables(4),
  'iptables IPv6': () => iptables(6),
  ipvs,
};

function check(condition: boolean, what: unknown): void {
  if (!condition) throw new Error(JSON.stringify(what));
}

for (const [name, open] of Object.entries(planners)) {
  test(`${name}: nonsense beside a good Service is planned, and the good Service is served as if it were alone`, (t) => {
    const alone = open();
    const { views } = new Objects();
    for (const [service, ports] of views.refresh()) alone.put(service, ports);
    alone.check(views.current);
    const goodAlone = views.current.get(GOOD);
    const wanted = alone.wanted();
    let most = 0;
    fc.assert(
      fc.property(
        fc.array(fc.array(nonsenseStep, { minLength: 1, maxLength: 4 }), { maxLength: 6 }),
        (rounds) => {
          const objects = new Objects();
          const planner = open();
          for (const round of [[], ...rounds]) {
            for (const step of round) objects.change(step);
            for (const [service, ports] of objects.views.refresh()) planner.put(service, ports);
            planner.check(objects.views.current);
            // Whoever was there first has the node port: that is no nonsense.
            if (!isDeepStrictEqual(objects.views.current.get(GOOD), goodAlone)) continue;
            const now = planner.wanted();
            most = Math.max(most, now.size);
            for (const [key, row] of wanted)
              check(isDeepStrictEqual(now.get(key), row), [key, row, now.get(key)]);
            check(!planner.problems.has(GOOD), planner.problems.get(GOOD));
          }
        },
      ),
      { numRuns: 150 },
    );
    t.true(most > wanted.size, 'nonsense came as far as the plan');
  });
}
