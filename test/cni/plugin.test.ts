import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { hostNameOf } from '../../cni/attachment.ts';
import { HostLocalImport } from '../../cni/host-local-import.ts';
import { Leases } from '../../cni/leases.ts';
import type { NodeNetwork } from '../../cni/node-network.ts';
import { rowKinds } from '../../cni/part.ts';
import type { PartTables } from '../../cni/part-tables.ts';
import { Plugin } from '../../cni/plugin.ts';
import { pluginTypes } from '../../cni/plugin-types.ts';
import { supportedVersions } from '../../cni/version.ts';
import { WantedRows } from '../../cni/wanted.ts';
import type { Cidr } from '../../core/address.ts';
import type { AttachmentRow } from '../../kernel/attachment.ts';
import type { PodSetting } from '../../kernel/pod-setting.ts';
import { FakeKernel, FakeTable } from '../fake/table.ts';
import { testConfig } from './node.ts';

/** The plugin over a kernel in memory: pairs lie on their bridge, as in the real one. */
function setUp(t: ExecutionContext) {
  const directory = mkdtempSync('/dev/shm/fairlead-plugin-');
  const namespaceFd = openSync('/proc/self/ns/net', 'r');
  t.teardown(() => {
    closeSync(namespaceFd);
    rmSync(directory, { recursive: true });
  });
  const kernel = new FakeKernel();
  const links = new FakeTable<object>({ name: 'link', kernel });
  const table = new FakeTable<AttachmentRow>({
    name: 'attachment',
    kernel,
    liesOn: ({ bridge }) => [`link/${bridge}`],
    same: () => false,
  });
  const pod = new FakeTable<PodSetting>({ name: 'pod', kernel });
  const leases = Leases.open(directory, 'boot');
  const forgotten: string[] = [];
  const bridges = {
    ensure: ({ bridge }: { bridge: string }) => {
      if (forgotten.length > 0 || links.batches.length === 0) links.put(bridge, {});
      links.batches.push([]);
      return true as const;
    },
    forget: (bridge: string) => void forgotten.push(bridge),
    macOf: () => undefined,
  };
  const state: { network: NodeNetwork | undefined; listening: boolean; trouble: string | undefined } = {
    network: undefined,
    trouble: undefined,
    listening: true,
  };
  const wanted = new WantedRows();
  const node = {
    hasLink: async (_: number, name: string) =>
      [...table.rows().values()].some(({ pod }) => pod?.ifname === name),
    peerOf: async () => undefined,
    deviceTo: async () => undefined,
    hasFirewalld: async () => false,
    capture: async (_: number, settings: readonly PodSetting[]) => settings,
  };
  const plugin = new Plugin({
    tables: fakeTables(kernel, table, pod),
    bridges,
    leases,
    wanted,
    imports: new HostLocalImport({ leases, onReport: () => {} }),
    node,
    log: { info: () => {}, warn: () => {}, error: () => {} },
    network: () => state.network,
    pass: () => {},
    trouble: () => state.trouble,
    kept: { note: () => {} },
  });
  /** "ok", or the code and message of the refusal. */
  const call = async (verb: string, containerId: string, config: object = testConfig()): Promise<string> => {
    const answers: string[] = [];
    await plugin.serve({
      env: new Map([
        ['CNI_COMMAND', verb],
        ['CNI_CONTAINERID', containerId],
        ['CNI_NETNS', '/proc/self/ns/net'],
        ['CNI_NETNS_OVERRIDE', '1'],
        ['CNI_IFNAME', 'eth0'],
        ['CNI_PATH', '/opt/cni/bin'],
      ]),
      stdin: Buffer.from(JSON.stringify(config)),
      ownNamespaceFd: namespaceFd,
      podNamespaceFd: namespaceFd,
      answer: (exitCode, stdout) => {
        const { code, msg } = exitCode === 0 ? {} : JSON.parse(stdout);
        answers.push(exitCode === 0 ? 'ok' : `${code} ${msg}`);
        return state.listening;
      },
    });
    t.is(answers.length, 1, 'exactly one answer');
    return String(answers[0]);
  };
  const addresses = () => [...table.rows().values()].flatMap(({ pod }) => pod?.addresses ?? []);
  return { call, table, pod, links, leases, forgotten, state, addresses };
}

/** Every table of a node in memory. */
function fakeTables(
  kernel: FakeKernel,
  attachment: FakeTable<AttachmentRow>,
  pod: FakeTable<PodSetting>,
): PartTables {
  const table = <V>(name: string) => new FakeTable<V>({ name, kernel });
  const others = Object.fromEntries(rowKinds.map((kind) => [kind, table(kind)]));
  return {
    node: { ...(others as unknown as PartTables['node']), attachment },
    pod: () => pod,
    sysctls: () => table('sysctls'),
    begin: () => undefined,
    abandon: async () => undefined,
    readPair: async () => ({ addresses: [], routes: [] }),
    forgetFlows: async () => {},
  };
}

function rowOf(containerId: string): string {
  return hostNameOf(`testnet/${containerId}/eth0`);
}

test('ADD makes row and lease, DEL removes both', async (t) => {
  const { call, table, leases } = setUp(t);
  t.is(await call('ADD', 'a'), 'ok');
  t.deepEqual([...table.rows().keys()], [rowOf('a')]);
  t.is(leases.size, 1);
  t.is(await call('DEL', 'a'), 'ok');
  t.is(table.rows().size + leases.size, 0);
});

test('an answer that nobody takes is undone', async (t) => {
  const { call, table, leases, state } = setUp(t);
  state.listening = false;
  t.is(await call('ADD', 'a'), 'ok');
  t.is(table.rows().size + leases.size, 0);
});

test('a row that the kernel refuses leaves no lease', async (t) => {
  const { call, table, leases } = setUp(t);
  table.forbidden.add(rowOf('a'));
  t.regex(await call('ADD', 'a'), /^999 failed to attach eth0 in .*: create attachment fl\w+: EPERM$/);
  t.is(table.rows().size + leases.size, 0);
});

test('a bridge that is gone is made again, once', async (t) => {
  const { call, links, forgotten } = setUp(t);
  t.is(await call('ADD', 'a'), 'ok');
  links.stored.clear();
  t.is(await call('ADD', 'b'), 'ok');
  t.deepEqual(forgotten, ['cni0']);
});

test('a DEL that fails keeps the lease, and the next one succeeds', async (t) => {
  const { call, table, leases } = setUp(t);
  await call('ADD', 'a');
  table.forbidden.add(rowOf('a'));
  t.regex(await call('DEL', 'a'), /^5 failed to detach: /);
  t.is(leases.size, 1);
  table.forbidden.clear();
  t.is(await call('DEL', 'a'), 'ok');
  t.is(leases.size, 0);
});

test('a setting in the container that cannot be put back fails no DEL', async (t) => {
  const { call, pod, leases } = setUp(t);
  const prevResult = { cniVersion: '1.0.0', interfaces: [], ips: [] };
  const tuning = testConfig({ type: 'tuning', mtu: 1300, prevResult });
  t.is(await call('ADD', 'a', tuning), 'ok');
  pod.forbidden.add('mtuBytes eth0');
  t.is(await call('DEL', 'a', tuning), 'ok');
  t.is(leases.size, 0);
});

for (const type of ['bridge', 'ptp', 'flannel']) {
  test(`DEL of type ${type} frees the address of a pod that the reference plugins attached`, async (t) => {
    const { call, leases } = setUp(t);
    const dataDir = mkdtempSync('/dev/shm/fairlead-plugin-');
    t.teardown(() => rmSync(dataDir, { recursive: true }));
    mkdirSync(join(dataDir, 'testnet'));
    for (const [ip, id] of Object.entries({ '10.55.0.2': 'a', '10.55.0.3': 'b' })) {
      writeFileSync(join(dataDir, 'testnet', ip), `${id}\r\neth0`);
    }
    writeFileSync(join(dataDir, 'a'), '{}');
    const ipam = { type: type === 'flannel' ? undefined : 'host-local', dataDir, subnet: '10.55.0.0/24' };
    const config = testConfig({ type, ipam, dataDir });
    t.is(await call('DEL', 'a', config), 'ok');
    t.deepEqual(
      [...leases.values()].map(({ containerId, addresses }) => `${containerId} ${addresses}`),
      ['b 10.55.0.3'],
    );
    t.deepEqual(readdirSync(join(dataDir, 'testnet')), []);
    t.is(existsSync(join(dataDir, 'a')), type !== 'flannel', "flannel's own note of the container");
    t.is(await call('DEL', 'a', config), 'ok');
    t.is(await call('DEL', 'c', { ...config, ipam: { type: 'host-local', dataDir: '/dev/null' } }), 'ok');
  });
}

test('of two ADDs at once one is refused, and what the other made stays', async (t) => {
  const { call, table } = setUp(t);
  const answers = await Promise.all([call('ADD', 'a'), call('ADD', 'a')]);
  t.deepEqual(answers, ['ok', '4 CNI_IFNAME: interface "eth0" already exists in "/proc/self/ns/net"']);
  t.is(table.rows().size, 1);
});

test('a lease whose interface is gone makes way for a new ADD', async (t) => {
  const { call, table, leases } = setUp(t);
  await call('ADD', 'a');
  table.stored.clear();
  t.is(await call('ADD', 'a'), 'ok');
  t.is(table.rows().size, 1);
  t.is(leases.size, 1);
});

test('a lease that cannot be recorded leaves no row', async (t) => {
  const { call, table, leases } = setUp(t);
  await call('ADD', 'a');
  leases[Symbol.dispose]();
  t.regex(await call('ADD', 'b'), /^5 failed to record the lease: /);
  t.deepEqual([...table.rows().keys()], [rowOf('a')]);
});

test('what the node decides anew counts from the next ADD on', async (t) => {
  const { call, state, addresses } = setUp(t);
  const config = { cniVersion: '1.0.0', name: 'testnet', type: 'fairlead' };
  t.is(await call('ADD', 'a', config), '11 the node has no pod subnet yet');
  const network = { name: 'cni0', mtuBytes: 1500, masquerade: true };
  state.network = { ...network, subnets: ['10.3.0.0/24' as Cidr] };
  t.is(await call('ADD', 'a', config), 'ok');
  state.network = { ...network, subnets: ['10.4.0.0/24' as Cidr] };
  t.is(await call('ADD', 'b', config), 'ok');
  t.deepEqual(addresses().sort(), ['10.3.0.2/24', '10.4.0.2/24']);
});

const config110 = (more: object = {}) => testConfig({ cniVersion: '1.1.0', ...more });
const valid = (...ids: string[]) => ids.map((containerID) => ({ containerID, ifname: 'eth0' }));

test('GC removes what the runtime does not know of, in this network only', async (t) => {
  const { call, leases } = setUp(t);
  for (const id of ['a', 'b', 'c']) t.is(await call('ADD', id, config110()), 'ok');
  t.is(await call('ADD', 'other', config110({ name: 'othernet' })), 'ok');
  const list = { 'cni.dev/valid-attachments': valid('b') };
  t.is(await call('GC', '', config110(list)), 'ok');
  t.deepEqual([...leases.values()].map(({ containerId }) => containerId).sort(), ['b', 'other']);
});

test('GC without a list removes nothing, with an empty one everything, by either key', async (t) => {
  const { call, leases } = setUp(t);
  t.is(await call('ADD', 'a', config110()), 'ok');
  t.is(await call('GC', '', config110()), 'ok');
  t.is(leases.size, 1);
  t.is(await call('GC', '', config110({ 'cni.dev/attachments': [] })), 'ok');
  t.is(leases.size, 0);
});

test('GC leaves alone what is being attached', async (t) => {
  const { call, table } = setUp(t);
  const config = testConfig({ cniVersion: '1.1.0' });
  const gc = () => call('GC', '', { ...config, 'cni.dev/valid-attachments': [] });
  t.deepEqual(await Promise.all([call('ADD', 'a', config), gc()]), ['ok', 'ok']);
  t.is(table.rows().size, 1);
  t.is(await gc(), 'ok');
  t.is(table.rows().size, 0);
});

test('GC goes on past what fails, and tells all of it', async (t) => {
  const { call, leases, table } = setUp(t);
  for (const id of ['a', 'b', 'c']) t.is(await call('ADD', id, config110()), 'ok');
  table.forbidden.add(rowOf('a')).add(rowOf('b'));
  const told = await call('GC', '', config110({ 'cni.dev/valid-attachments': [] }));
  t.regex(told, new RegExp(`^5 failed to detach: .*${rowOf('a')}.*; failed to detach: .*${rowOf('b')}`));
  t.deepEqual([...leases.values()].map(({ containerId }) => containerId).sort(), ['a', 'b']);
});

test('STATUS says whether an ADD could be served', async (t) => {
  const { call, state } = setUp(t);
  const config = { cniVersion: '1.1.0', name: 'testnet', type: 'fairlead' };
  t.is(await call('STATUS', '', config), '50 the node has no pod subnet yet');
  t.is(await call('STATUS', '', config110()), 'ok');
  state.trouble = 'bridge cni0: EPERM';
  t.is(await call('STATUS', '', config110()), '51 bridge cni0: EPERM');
});

test('STATUS of a pool with nothing left is code 50', async (t) => {
  const { call } = setUp(t);
  const config = config110({ ipam: { subnet: '10.55.0.0/30' } });
  t.is(await call('STATUS', '', config), 'ok');
  t.is(await call('ADD', 'a', config), 'ok');
  t.is(await call('STATUS', '', config), '50 no IP addresses available in range set: 10.55.0.1-10.55.0.2');
});

test('CHECK needs the result of ADD, and an ADD before', async (t) => {
  const { call } = setUp(t);
  t.is(await call('CHECK', 'a', config110()), '7 Required prevResult missing');
  const config = config110({ prevResult: { cniVersion: '1.1.0', ips: [{ address: '10.55.0.2/24' }] } });
  t.is(
    await call('CHECK', 'a', config),
    '999 plugin fairlead has made nothing for eth0 of a in network testnet',
  );
});

test('a type that there is not is refused with those that there are, and DEL of it succeeds', async (t) => {
  const { call } = setUp(t);
  const config = testConfig({ type: 'macvlan' });
  t.regex(
    await call('ADD', 'a', config),
    /^7 type: "macvlan" is no plugin of Fairlead; there are: fairlead, bridge, /,
  );
  t.is(await call('DEL', 'a', config), 'ok');
});

test('whatever is called with whatever, there is exactly one answer, and it is one JSON object or nothing', async (t) => {
  const { call } = setUp(t);
  const keys = [
    'type',
    'name',
    'cniVersion',
    'ipam',
    'ranges',
    'subnet',
    'routes',
    'dst',
    'mtu',
    'vlan',
    'vlanTrunk',
    'mode',
    'ipMasq',
    'runtimeConfig',
    'portMappings',
    'hostPort',
    'bandwidth',
    'ingressRate',
    'prevResult',
    'ips',
    'address',
    'interfaces',
    'delegate',
    'sysctl',
    'args',
    'cni',
    'backend',
    'cni.dev/valid-attachments',
    'containerID',
  ];
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.constantFrom<unknown>(
        '10.9.0.0/24',
        '10.9.0.9/24',
        'fd00::/64',
        8080,
        1e9,
        -1,
        '',
        null,
        true,
        'net.x',
      ),
      fc.jsonValue(),
      fc.dictionary(fc.constantFrom(...keys), tie('value'), { maxKeys: 8 }),
      fc.array(tie('value'), { maxLength: 3 }),
    ),
  }));
  const verb = fc.constantFrom('ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION');
  const type = fc.constantFrom(...pluginTypes.keys(), 'host-local', 'other');
  const config = fc.dictionary(fc.constantFrom(...keys), value, { maxKeys: 8 });
  await fc.assert(
    fc.asyncProperty(verb, type, config, fc.constantFrom(...supportedVersions), async (...drawn) => {
      const [verb, type, config, cniVersion] = drawn;
      // lo of the namespace that the tests run in stays as it is.
      if (type === 'loopback') return;
      const dataDir = { ipam: { ...(config.ipam as object | null), dataDir: '/dev/shm/fairlead-none' } };
      const told = await call(verb, 'fuzz', { ...config, ...dataDir, name: 'testnet', type, cniVersion });
      t.notRegex(told, /TypeError|undefined is not|Cannot read/);
    }),
    { numRuns: 600 },
  );
});
