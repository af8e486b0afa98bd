import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { type CallOptions, type CallResult, CniNode, eventually } from '../cni/node.ts';

// Whatever comes to the real shim and the real agent: an exit, and on standard output one JSON object or nothing.

const runs = 240;
const atOnce = 8;
const verbs = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;

type Json = { [key: string]: unknown };

const folder = join(import.meta.dirname, '../golden/conflists');
/** What runtimes hand to each plugin of a list: its object with the list's name and version. */
const configs = readdirSync(folder).flatMap((file) => {
  const list = JSON.parse(readFileSync(join(folder, file), 'utf8')) as Json & { plugins: Json[] };
  return list.plugins.map((plugin) => ({ ...plugin, name: list.name, cniVersion: list.cniVersion }) as Json);
});

const anyValue = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }),
  fc.constantFrom(-1, 0, 1e308, 4095, 2 ** 53, '', '0.0.0.0/0', '10.1.2.3/33', 'fd00::/129', [[]], [[{}]]),
);
const anyKey = fc.constantFrom(
  ...[
    'mtu',
    'vlan',
    'ipMasq',
    'isGateway',
    'cniVersion',
    'runtimeConfig',
    'prevResult',
    'args',
    'mac',
    'backend',
  ],
  ...[
    'cni.dev/valid-attachments',
    'sysctl',
    'hairpinMode',
    'macspoofchk',
    'ingressPolicy',
    'delegate',
    'type',
  ],
);
/** One of the corpus, often with a value that does not belong there; else anything at all. */
const anyInput = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...configs) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.constantFrom(...configs), anyKey, anyValue)
      .map(([config, key, value]) => ({ ...config, [key]: value })),
  },
  { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
  { weight: 1, arbitrary: fc.json() },
);
const anyText = fc.oneof(
  fc.constantFrom('', '..', 'a b', 'x'.repeat(300)),
  fc.string({ unit: 'grapheme-ascii' }),
);
const anyEnvironment = fc.dictionary(
  fc.constantFrom(
    'CNI_CONTAINERID',
    'CNI_IFNAME',
    'CNI_ARGS',
    'CNI_NETNS',
    'CNI_NETNS_OVERRIDE',
    'TRACEPARENT',
  ),
  anyText,
  { maxKeys: 1 },
);
const anyCall = fc.record({
  verb: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...verbs) }, fc.constantFrom('', 'add', 'X"')),
  input: anyInput,
  env: fc.oneof({ weight: 2, arbitrary: fc.constant({}) }, anyEnvironment),
  pod: fc.nat(3),
  netns: fc.constantFrom('its', 'its', 'its', '/nowhere', '/dev/null', '/proc/self/ns/uts'),
});

/** Why it is no answer of the protocol; undefined: it is one. */
function faultOf(verb: string, { exitCode, stdout }: CallResult): string | undefined {
  if (exitCode !== 0 && exitCode !== 1) return `exit ${exitCode}`;
  const isSilent = exitCode === 0 && verb !== 'ADD' && verb !== 'VERSION';
  if (isSilent) return stdout === '' ? undefined : 'something was printed';
  const value = JSON.parse(stdout) as Json;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'no object';
  if (exitCode === 0) return typeof value.cniVersion === 'string' ? undefined : 'no result';
  const isError = Number.isInteger(value.code) && typeof value.msg === 'string' && value.msg !== '';
  return isError ? undefined : 'no error';
}

test('whatever comes to the plugin, it exits with one JSON object or nothing, and the agent serves on', async (t) => {
  const node = CniNode.open(t);
  await node.start({ network: { name: 'cni0', subnets: [], mtuBytes: 1500, masquerade: false } });
  const pods = Array.from({ length: 4 }, () => node.pod());
  const CNI_PATH = join(node.directory, 'bin');
  mkdirSync(CNI_PATH);
  /** Nothing of the machine that the tests run on is read or removed. */
  const inside = (input: string | Json): string => {
    if (typeof input === 'string') return input;
    const ipam = typeof input.ipam === 'object' ? { ...input.ipam, dataDir: node.directory } : input.ipam;
    const subnetFile = join(node.directory, 'subnet.env');
    return JSON.stringify({ ...input, ipam, dataDir: node.directory, subnetFile });
  };
  const seed = Date.now() & 0x7fffffff;
  const rest = fc.sample(anyCall, { numRuns: runs, seed }).values();
  const faults: string[] = [];
  const outcomes = { done: 0, refused: 0 };
  const worker = async () => {
    for (const drawn of rest) {
      const pod = pods[drawn.pod] ?? { containerId: '', netns: '' };
      const netns = drawn.netns === 'its' ? pod.netns : drawn.netns;
      const config = inside(drawn.input as string | Json);
      const options: CallOptions = {
        containerId: pod.containerId,
        netns,
        config,
        env: { CNI_PATH, ...drawn.env },
      };
      const result = await node.call(drawn.verb, options);
      // Without a verb it says what it is, on standard error.
      const fault = drawn.verb === '' ? undefined : attempt(() => faultOf(drawn.verb, result));
      if (fault !== undefined) faults.push(`${fault}: ${drawn.verb} ${config}: ${JSON.stringify(result)}`);
      outcomes[result.exitCode === 0 ? 'done' : 'refused'] += 1;
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  t.deepEqual(faults, [], `seed ${seed}`);
  t.true(outcomes.done > 0 && outcomes.refused > 0, JSON.stringify(outcomes));
  t.true(node.isServing);
  t.notRegex(node.log.join('\n'), /TypeError|RangeError|unhandled/i);
  for (const { network, containerId, ifname, type } of attached(node)) {
    const config = { cniVersion: '1.0.0', name: network, type };
    t.is((await node.call('DEL', { containerId, ifname, config, env: { CNI_PATH } })).exitCode, 0);
  }
  t.deepEqual(node.leases(), []);
  t.true(await eventually(async () => (await node.pairs()).length === 0));
});

function attached(node: CniNode) {
  return node.leases().map((line) => {
    const [key = '', type = ''] = line.split(' ');
    const [network = '', containerId = '', ifname = ''] = key.split('/');
    return { network, containerId, ifname, type };
  });
}

function attempt(check: () => string | undefined): string | undefined {
  try {
    return check();
  } catch (error) {
    return (error as Error).message;
  }
}
