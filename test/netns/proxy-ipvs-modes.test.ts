import type { ExecutionContext } from 'ava';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { families } from '../../core/address.ts';
import type { Backend } from '../../proxy/backend.ts';
import { removeOtherModes } from '../../proxy/cleanup.ts';
import { openIptables } from '../../proxy/iptables/backend.ts';
import { retireIpvs } from '../../proxy/ipvs/remove.ts';
import { openNftables } from '../../proxy/nftables/backend.ts';
import { policy, type TestService, viewsOf } from './proxy-backend-lab.ts';
import { echoOf, goesOn, openIpvsStage } from './proxy-ipvs-lab.ts';

/* Where there is IPVS: `npm run test:vm -- test/netns/proxy-ipvs-modes.test.ts`. */

const stage = await openIpvsStage();
const { fact } = stage;
const service: TestService = { number: 1, pods: ['one'] };
const BYTE_INTERVAL_MS = 50;

const others = {
  nftables: (namespaceFd: number) => openNftables({ namespaceFd, policy }),
  iptables: (namespaceFd: number) =>
    openIptables({ namespaceFd, policy, variant: 'nft', checkIntervalMs: 0 }),
} as const;

async function openOther(t: ExecutionContext, mode: keyof typeof others): Promise<Backend> {
  const backend = others[mode](stage.lab.namespace.fd);
  t.teardown(() => backend[Symbol.dispose]());
  await backend.updateNode(stage.lab.facts());
  return backend;
}

/** From a pod to the cluster IP, and from outside to the node port, in both families. */
async function holdAll(t: ExecutionContext) {
  const places = families.flatMap((family) => [
    ['client', stage.lab.target(family, 'clusterIP', 1)] as const,
    ['outside', stage.lab.target(family, 'nodePort', 1)] as const,
  ]);
  return await Promise.all(
    places.map(async ([source, { ip, port }]) => {
      const client = stage.lab.lab.startClient(source);
      t.teardown(() => client[Symbol.asyncDispose]());
      t.like(await client.hold(ip, port, BYTE_INTERVAL_MS), { ok: true });
      return client;
    }),
  );
}

async function allGoOn(t: ExecutionContext, clients: readonly Workload[]): Promise<void> {
  await Promise.all(clients.map((client) => goesOn(t, client)));
}

/** New connections from everywhere are those of the services as they are now. */
async function assertServed(t: ExecutionContext): Promise<void> {
  for (const family of families) {
    t.is(await stage.lab.seen('client', stage.lab.target(family, 'clusterIP', 1), ['one']), 'one');
    t.is(await stage.lab.seen('outside', stage.lab.target(family, 'nodePort', 1), ['one']), 'one M');
  }
}

for (const mode of ['nftables', 'iptables'] as const) {
  fact(`connections of the mode ${mode} go on in mode ipvs`, async (t) => {
    const namespaceFd = stage.lab.namespace.fd;
    const other = await openOther(t, mode);
    t.deepEqual((await other.replace(echoOf(service))).failures, []);
    const clients = await holdAll(t);
    await allGoOn(t, clients);
    other[Symbol.dispose]();
    const backend = await stage.open(t);
    await stage.lab.write(backend, [service]);
    await allGoOn(t, clients);
    await removeOtherModes('ipvs', { namespaceFd });
    await allGoOn(t, clients);
    await assertServed(t);
    t.notRegex(stage.inside('/usr/sbin/nft', 'list', 'ruleset'), /fairlead-proxy|KUBE-SERVICES/);
  });

  fact(
    `connections of the mode ipvs go on in mode ${mode}, and nothing of it is left behind them`,
    async (t) => {
      const namespaceFd = stage.lab.namespace.fd;
      const backend = await stage.open(t);
      t.deepEqual((await backend.replace(echoOf(service))).failures, []);
      const clients = await holdAll(t);
      await allGoOn(t, clients);
      backend[Symbol.dispose]();
      const other = await openOther(t, mode);
      t.deepEqual((await other.replace(viewsOf([service]))).failures, []);
      const stop = new AbortController();
      t.teardown(() => stop.abort());
      const removed = removeOtherModes(mode, { namespaceFd, signal: stop.signal });
      // One server for each connection.
      await stage.until(() => stage.servers().size === clients.length);
      await assertServed(t);
      await allGoOn(t, clients);
      for (const client of clients) await client[Symbol.asyncDispose]();
      stop.abort();
      await removed;
      // The kernel remembers closed connections for two minutes.
      await retireIpvs({ namespaceFd, signal: new AbortController().signal, drainMs: 1_000 });
      t.is(stage.servers().size, 0);
      t.notRegex(stage.inside('/usr/sbin/ip', 'link'), /kube-ipvs0/);
      t.notRegex(stage.inside('/usr/sbin/nft', 'list', 'tables'), /fairlead-ipvs/);
      await assertServed(t);
    },
  );
}
