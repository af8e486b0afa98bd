import test, { type ExecutionContext } from 'ava';
import { type Cidr, type Family, families, type Ip } from '../../core/address.ts';
import type { Backend } from '../../proxy/backend.ts';
import type { ProxyPolicy } from '../../proxy/policy.ts';
import { labName } from './lab.ts';
import { factOf } from './missing.ts';
import {
  BackendLab,
  type BackendPlace,
  frontendAddress,
  policy,
  portsOf,
  type Target,
  type TestService,
} from './proxy-backend-lab.ts';
import { affinityFacts } from './proxy-conformance-affinity.ts';
import { objectFacts } from './proxy-conformance-objects.ts';
import { rawFacts } from './proxy-conformance-raw.ts';
import {
  all,
  allowed,
  both,
  each,
  expectedNames,
  externalKinds,
  type Flow,
  frontendKinds,
  guarded,
  hairpins,
  lackingEndpoints,
  masqueradingAll,
  matrix,
  neither,
  services,
  sources,
  withoutDetector,
} from './proxy-flows.ts';

/*
 * What every backend of the proxy must do to packets, in both families, TCP and UDP: the rows of kube-proxy's own
 * tests (pkg/proxy/nftables/proxier_test.go), as real connections. Pods "one" and "two" are on the node with the
 * proxy, "three" is on the other one; see proxy-lab.ts.
 */

export interface ConformingBackend {
  readonly name: string;
  open(place: BackendPlace): Backend;
  /** Takes away all that it wrote. */
  remove(place: BackendPlace): Promise<void>;
  /** Why it cannot be tested here: its tests are skipped, and their titles say so. */
  readonly missing?: string | undefined;
  /** What it does otherwise than nftables, and may. */
  readonly differs: {
    /** A cluster IP's unused ports and unallocated addresses are left to routing. */
    readonly leavesUnusedAddresses?: boolean;
    /** Node ports answer on 127.0.0.1, where that is wanted. */
    readonly servesLocalhost?: boolean;
    /** Why it cannot spread connections by a hash of the client. */
    readonly lacksMaglev?: string;
    /** All clients of a frontend have the same endpoints: under "Local" also pods and the node those on the node. */
    readonly hasOneListForAll?: boolean;
    /** The node connects to cluster IPs from their own address: without a detector, too, it has to be masqueraded. */
    readonly masqueradesNode?: boolean;
    /** A client may have another endpoint at another address or port of a service. */
    readonly keepsByFrontend?: boolean;
    /**
     * Clients are remembered while connections of theirs are, which is long for TCP: it is looked at UDP, and after
     * this time.
     */
    readonly forgetsAfterMs?: number;
  };
}

/** What the parts of the suite have in common. */
export interface Stage {
  readonly differs: ConformingBackend['differs'];
  lab(): BackendLab;
  /** Another process, with this policy; what is in the kernel stays. */
  start(changes?: Partial<ProxyPolicy>, its?: readonly TestService[]): Promise<Backend>;
  /** A test of both families. */
  fact(title: string, run: (t: ExecutionContext, family: Family) => Promise<void>): void;
  /** Goes these ways with TCP and with UDP. */
  check(t: ExecutionContext, family: Family, flows: readonly Flow[]): Promise<void>;
  /** What is to come of a flow here, in the words of {@link BackendLab.seen}. */
  expectedOf(flow: Flow): string;
}

/** Tests of one backend, in a lab of its own. Call it once in a test file. */
export function conformance(backend: ConformingBackend): void {
  let lab: BackendLab;
  let current: Backend | undefined;
  const place = (changes: Partial<ProxyPolicy> = {}) => ({
    namespace: lab.namespace,
    namespaceName: lab.lab.node.namespace,
    policy: { ...policy, ...changes },
  });

  test.before(async () => {
    lab = await BackendLab.open(labName());
  });
  test.after.always(async () => {
    current?.[Symbol.dispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  /** Another process, with this policy; what is in the kernel stays. */
  async function start(changes: Partial<ProxyPolicy> = {}, its = services): Promise<Backend> {
    current?.[Symbol.dispose]();
    current = backend.open(place(changes));
    await current.updateNode(lab.facts());
    await lab.write(current, its);
    return current;
  }

  function one(title: string, run: (t: ExecutionContext) => Promise<void>): void {
    factOf(backend.missing)(title, run);
  }

  /** A test of both families. */
  function fact(title: string, run: (t: ExecutionContext, family: Family) => Promise<void>): void {
    for (const family of families) one(`IPv${family}: ${title}`, (t) => run(t, family));
  }

  async function check(t: ExecutionContext, family: Family, flows: readonly Flow[]): Promise<void> {
    for (let at = 0; at < flows.length; at += FLOWS_AT_A_TIME)
      await Promise.all(flows.slice(at, at + FLOWS_AT_A_TIME).map((flow) => checkFlow(t, family, flow)));
  }

  function expectedOf([source, kind, number, expected]: Flow): string {
    const { hasOneListForAll, masqueradesNode } = backend.differs;
    if (hasOneListForAll && kind !== 'clusterIP' && localServices.has(number))
      return expected.replace('one+three', 'one');
    const isPlain = source === 'node' && kind === 'clusterIP' && /^(one|three)[+a-z]*$/.test(expected);
    return masqueradesNode && isPlain ? `${expected} M` : expected;
  }

  async function checkFlow(t: ExecutionContext, family: Family, flow: Flow): Promise<void> {
    const [source, kind, number] = flow;
    const expected = expectedOf(flow);
    const at = lab.target(family, kind, number);
    const [tcp, udp] = await Promise.all([
      lab.seen(source, at, expectedNames(expected)),
      lab.seenByDatagrams(source, at, expectedNames(expected)),
    ]);
    const what = `from ${source} to ${kind} ${at.ip} ${at.port}`;
    t.is(tcp, expected, `TCP ${what}`);
    t.is(udp, expected, `UDP ${what}`);
  }

  const stage: Stage = { differs: backend.differs, lab: () => lab, start, fact, check, expectedOf };

  fact('who is reached, and seen as whom', async (t, family) => {
    await start();
    await check(t, family, matrix);
  });

  fact('without endpoints connections are refused, by policy dropped', async (t, family) => {
    await check(t, family, lackingEndpoints);
  });

  fact('source ranges are for addresses of load balancers, and come first', async (t, family) => {
    await check(t, family, guarded);
  });

  fact('a pod reaches itself, seen as the node', async (t, family) => {
    await check(t, family, hairpins);
  });

  fact('without a detector, pods are like others', async (t, family) => {
    await start({ detectLocal: { mode: 'none' } });
    await check(t, family, withoutDetector);
    await start({ detectLocal: { mode: 'none' }, masqueradeAll: true });
    await check(t, family, neither);
  });

  fact('with masqueradeAll, pods are masqueraded on the way to cluster IPs, too', async (t, family) => {
    await start({ masqueradeAll: true });
    await check(t, family, masqueradingAll);
  });

  fact('pods are told by their bridge', async (t, family) => {
    await start({ detectLocal: { mode: 'bridge', name: 'cni0' } });
    await check(t, family, matrix);
  });

  fact('pods are told by the name of their interface', async (t, family) => {
    await start({ detectLocal: { mode: 'interfacePrefix', prefix: 'cni' } });
    await check(t, family, matrix);
  });

  fact('changes of a policy act on the next connection, and only on its service', async (t, family) => {
    const running = await start({}, [...services.slice(0, 3), ...services.slice(9, 10)]);
    const changing = (view: TestService['view'], pods: TestService['pods'] = both) =>
      lab.update(running, [{ number: 1, pods, ...(view === undefined ? {} : { view }) }]);
    await changing({ externalPolicy: 'Local' });
    await check(t, family, [
      ...each(['outside'], externalKinds, 1, 'one'),
      ...each(['client'], ['nodePort'], 1, backend.differs.hasOneListForAll ? 'one' : 'one+three'),
    ]);
    await changing({ internalPolicy: 'Local', sourceRanges: [] });
    await check(t, family, [
      ...each(['client'], ['clusterIP'], 1, 'one'),
      ...each(['outside'], ['loadBalancerIP'], 1, 'no answer'),
      ...each(['outside'], ['nodePort'], 1, 'one+three M'),
    ]);
    await changing((each) => ({ sourceRanges: allowed(each), externalPolicy: 'Local' }));
    await check(t, family, [
      ...each(['outside'], ['loadBalancerIP'], 1, 'one'),
      ...each(['client'], ['loadBalancerIP'], 1, 'no answer'),
    ]);
    await changing(undefined, []);
    await check(t, family, each(['client', 'outside'], frontendKinds, 1, 'refused'));
    await changing(undefined);
    await check(t, family, matrix);
    await running.update(new Map([['default/s1', []]]));
    t.not(await lab.seen('client', lab.target(family, 'nodePort', 1)), 'one+three M');
  });

  fact('node ports are open where the node has its addresses at the moment', async (t, family) => {
    const running = await start({}, services.slice(0, 1));
    const [own, bridge] = [lab.nodeAddress(family), lab.bridgeAddress(family)];
    const open = async (ip: Ip) =>
      (await lab.seen('client', { ip, port: 30_001 }, both)).startsWith('one+three');
    const facts = (ips: readonly Ip[] | 'all') =>
      lab.facts({ nodePortIps: { 4: family === 4 ? ips : [], 6: family === 6 ? ips : [] } });
    t.deepEqual([await open(own), await open(bridge)], [true, false]);
    await running.updateNode(facts([bridge]));
    t.deepEqual([await open(own), await open(bridge)], [false, true]);
    await running.updateNode(facts('all'));
    t.deepEqual([await open(own), await open(bridge)], [true, true]);
    const loopback = (family === 4 ? '127.0.0.1' : '::1') as Ip;
    t.is(await lab.seen('node', { ip: loopback, port: 30_001 }), 'refused');
    await running.updateNode(facts([own]));
    t.deepEqual([await open(own), await open(bridge)], [true, false]);
  });

  if (backend.differs.servesLocalhost === true) {
    fact(
      'node ports answer on 127.0.0.1, as the node, whatever the policies; not on ::1',
      async (t, family) => {
        const running = await start({ nodePortAddresses: [], localhostNodePorts: true });
        await running.updateNode(lab.facts({ nodePortIps: { 4: 'all', 6: 'all' } }));
        const expected = family === 4 ? 'one+three M' : 'refused';
        for (const number of [1, 2, 3]) {
          const at = { ip: (family === 4 ? '127.0.0.1' : '::1') as Ip, port: 30_000 + number };
          t.is(await lab.seen('node', at, expectedNames(expected)), expected, `TCP, service ${number}`);
          t.is(
            await lab.seenByDatagrams('node', at, expectedNames(expected)),
            expected,
            `UDP, service ${number}`,
          );
        }
      },
    );
  }

  if (!backend.differs.leavesUnusedAddresses) {
    fact(
      'what is no service is refused at a cluster IP that lives, and dropped at one that does not',
      async (t, family) => {
        const running = await start();
        const at = (number: number, port: number): Target => {
          return { ip: frontendAddress(family, 'clusterIP', number), port };
        };
        for (const source of sources) {
          t.is(await lab.seen(source, at(1, 81)), 'refused', source);
          t.is(await lab.seenByDatagrams(source, at(1, 81)), 'refused', source);
          t.is(await lab.seenByDatagrams(source, at(13, 80)), 'refused', `${source}: TCP only`);
          if (source !== 'outside')
            t.is(await lab.seen(source, at(99, 80), 'no answer'), 'no answer', source);
        }
        // The network of another ServiceCIDR object counts at once.
        const ip = frontendAddress(family, 'externalIP', 99);
        t.is(await lab.seen('node', { ip, port: 80 }), 'refused');
        const cidr = (family === 4 ? '10.97.0.0/16' : 'fd00:10:97::/64') as Cidr;
        await running.updateNode(lab.facts({ serviceCidrs: [cidr] }));
        t.is(await lab.seen('node', { ip, port: 80 }, 'no answer'), 'no answer');
        t.is(await lab.seen('client', lab.target(family, 'externalIP', 1), both), 'one+three M');
      },
    );
  }

  affinityFacts(stage);

  fact('endpoints get connections by their weights', async (t, family) => {
    await start();
    const answers = await lab.answerers('client', lab.target(family, 'clusterIP', 15), 400);
    const part = answers.filter((name) => name === 'one').length / answers.length;
    // Five standard deviations around three quarters.
    t.true(part > 0.64 && part < 0.86, `${part}`);
    t.deepEqual(
      new Set(await lab.answerers('client', lab.target(family, 'clusterIP', 16), 20)),
      new Set(['three']),
    );
  });

  if (backend.differs.lacksMaglev === undefined) {
    fact('by Maglev a client reaches the same endpoint, whatever process asked for it', async (t, family) => {
      await start();
      const answers = new Set<string>();
      for (const kind of ['clusterIP', 'nodePort', 'loadBalancerIP'] as const) {
        for (const name of await lab.answerers('client', lab.target(family, kind, 17), 10)) answers.add(name);
      }
      await start();
      for (const name of await lab.answerers('client', lab.target(family, 'clusterIP', 17), 10))
        answers.add(name);
      t.is(answers.size, 1);
      const running = await start();
      const [kept] = answers;
      const pods = all.filter((pod) => pod !== kept);
      await lab.update(running, [
        {
          number: 17,
          pods: [kept as (typeof all)[number], ...pods.slice(0, 1)],
          view: { balancing: 'maglev' },
        },
      ]);
      t.deepEqual(new Set(await lab.answerers('client', lab.target(family, 'clusterIP', 17), 10)), answers);
    });
  }

  objectFacts(stage);
  rawFacts(stage);

  one('a restart over what was written writes nothing', async (t) => {
    const running = await start();
    t.deepEqual(
      await running.replace(new Map(services.map((each) => [`default/s${each.number}`, portsOf(each)]))),
      {
        writes: 0,
        failures: [],
      },
    );
  });

  one('it can be taken away without a trace', async (t) => {
    await backend.remove(place());
    t.is(await lab.seen('client', lab.target(4, 'nodePort', 1)), 'refused');
  });
}

const FLOWS_AT_A_TIME = 8;
/** Those of `services` with the external policy "Local" and endpoints on the node. */
const localServices: ReadonlySet<number> = new Set([2, 14]);
