import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { CniError, cniCode } from '../../cni/error.ts';
import { findPluginType } from '../../cni/plugin-types.ts';
import { parsePrevResult } from '../../cni/prev-result.ts';
import { parseRequest, type Request } from '../../cni/request.ts';
import { renderError, renderVersions } from '../../cni/result.ts';
import { newestVersion, supportedVersions } from '../../cni/version.ts';

// What comes over standard input and the environment is read, or refused with one JSON object; never an exception.

const verbs = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;
/** Seconds would block all other calls of the node. */
const parseMsMax = 1_000;
const runs = { numRuns: 400 };

type Json = { [key: string]: unknown };

const folder = join(import.meta.dirname, '../golden/conflists');
const conflists = readdirSync(folder).map((file) => ({
  file,
  list: JSON.parse(readFileSync(join(folder, file), 'utf8')) as Json & { plugins: Json[] },
}));

/** What runtimes hand to each plugin of a list: its object with the list's name and version. */
const configs = conflists.flatMap(({ file, list }) =>
  list.plugins.map((plugin, index) => ({
    title: `${file}, plugin ${index + 1} (${plugin.type})`,
    config: { ...plugin, name: list.name, cniVersion: list.cniVersion } as Json,
  })),
);

function environment(verb: string, more: Record<string, string> = {}): ReadonlyMap<string, string> {
  const usual = {
    CNI_CONTAINERID: 'c1',
    CNI_NETNS: '/run/netns/c1',
    CNI_IFNAME: 'eth0',
    CNI_PATH: '/opt/cni/bin',
  };
  return new Map(Object.entries({ CNI_COMMAND: verb, ...usual, ...more }));
}

/** As far as a call goes without a kernel: the request, then the keys of its type, then `prevResult`. */
function read(env: ReadonlyMap<string, string>, stdin: Uint8Array): Request | CniError {
  const request = parseRequest(env, stdin);
  if (request instanceof CniError || !('config' in request)) return request;
  const { config, configText, cniVersion } = request;
  const previous = parsePrevResult(config, cniVersion);
  if (previous instanceof CniError) return previous;
  const type = findPluginType(request.type);
  if (type instanceof CniError) return type;
  const args = 'args' in request ? request.args : {};
  const plugin = type.parse(config, { cniVersion, args, configText });
  return plugin instanceof CniError ? plugin : request;
}

/** Undefined when it was read; else why what a runtime would find on standard output is no error of the protocol. */
function faultOf(outcome: Request | CniError): string | undefined {
  if (!(outcome instanceof CniError)) return undefined;
  const text = renderError(outcome, newestVersion);
  const { cniVersion, code, msg, details = '', ...rest } = JSON.parse(text) as Json;
  const isRight =
    cniVersion === newestVersion &&
    Object.values(cniCode).some((one) => one === code) &&
    typeof msg === 'string' &&
    msg !== '' &&
    typeof details === 'string' &&
    Object.keys(rest).length === 0 &&
    !text.includes('\n');
  return isRight ? undefined : text;
}

function check(env: ReadonlyMap<string, string>, stdin: Uint8Array | string): void {
  const fault = faultOf(read(env, Buffer.from(stdin)));
  if (fault !== undefined) throw new Error(fault);
}

const anyText = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('', '..', 'c1', 'eth0', '__proto__'));
const anyConfig = fc.constantFrom(...configs.map(({ config }) => config));
const anyEnvironment = fc.dictionary(
  fc.oneof(
    fc.constantFrom('CNI_COMMAND', 'CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME', 'CNI_PATH', 'CNI_ARGS'),
    fc.constantFrom('CNI_NETNS_OVERRIDE', 'FAIRLEAD_PLUGIN', 'TRACEPARENT'),
    fc.string(),
  ),
  fc.oneof(anyText, fc.constantFrom(...verbs, 'host-local')),
);
/** Values that are of the wrong type, too large, too small or almost right for some key. */
const anyValue = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom(
    -1,
    0,
    1e308,
    4095,
    2 ** 53,
    '',
    '0.0.0.0/0',
    '::/0',
    '10.1.2.3/33',
    'fd00::/129',
    [[]],
    [[{}]],
  ),
  fc.ipV4(),
  fc.ipV6(),
);

interface Change {
  readonly at: number;
  readonly how: 'replace' | 'remove' | 'upper-case' | 'wrap';
  readonly value: unknown;
}

const anyChange: fc.Arbitrary<Change> = fc.record({
  at: fc.nat(200),
  how: fc.constantFrom('replace', 'replace', 'remove', 'upper-case', 'wrap'),
  value: anyValue,
});

/** Every place in a tree of JSON: the object or list that holds it, and its key there. */
function placesOf(value: unknown): [holder: Json, key: string][] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [
    [value as Json, key] as [Json, string],
    ...placesOf(inner),
  ]);
}

function changed(config: Json, changes: readonly Change[]): Json {
  const copy = structuredClone(config);
  for (const { at, how, value } of changes) {
    const places = placesOf(copy);
    const [holder, key] = places[at % Math.max(places.length, 1)] ?? [copy, 'name'];
    const before = holder[key];
    if (how !== 'replace' && how !== 'wrap') delete holder[key];
    // A copy: what is put in may be changed next, and some values stand for many.
    if (how === 'replace') holder[key] = structuredClone(value);
    if (how === 'wrap') holder[key] = [before];
    if (how === 'upper-case') holder[key.toUpperCase()] = before;
  }
  return copy;
}

for (const { title, config } of configs) {
  test(`the configuration is read: ${title}`, (t) => {
    for (const verb of ['ADD', 'DEL'] as const) {
      const request = parseRequest(environment(verb), Buffer.from(JSON.stringify(config)));
      t.like(request, { verb, network: config.name, type: config.type, cniVersion: config.cniVersion });
      t.is(faultOf(read(environment(verb), Buffer.from(JSON.stringify(config)))), undefined);
    }
  });
}

test('any environment is read or refused with one JSON object', (t) => {
  const property = fc.property(anyEnvironment, anyConfig, (variables, config) =>
    check(new Map(Object.entries(variables)), JSON.stringify(config)),
  );
  t.notThrows(() => fc.assert(property, runs));
});

test('any CNI_ARGS are read or refused with one JSON object', (t) => {
  const key = fc.constantFrom('IP', 'MAC', 'IgnoreUnknown', 'K8S_POD_NAME', 'x', '');
  const pair = fc
    .tuple(key, fc.oneof(anyText, fc.constantFrom('1', 'true', '10.0.0.1')))
    .map((both) => both.join('='));
  const text = fc.oneof(
    anyText,
    fc.array(pair, { maxLength: 5 }).map((pairs) => pairs.join(';')),
  );
  const property = fc.property(text, anyConfig, (CNI_ARGS, config) =>
    check(environment('ADD', { CNI_ARGS }), JSON.stringify(config)),
  );
  t.notThrows(() => fc.assert(property, runs));
});

test('any bytes are read or refused with one JSON object', (t) => {
  const bytes = fc.oneof(
    fc.uint8Array(),
    fc.json().map((json) => new TextEncoder().encode(json)),
  );
  const property = fc.property(fc.constantFrom(...verbs), bytes, (verb, stdin) =>
    check(environment(verb), stdin),
  );
  t.notThrows(() => fc.assert(property, runs));
});

test('a configuration with bytes cut off or exchanged is read or refused with one JSON object', (t) => {
  const edits = fc.array(fc.tuple(fc.nat(2_000), fc.nat(255)), { maxLength: 3 });
  const property = fc.property(anyConfig, fc.nat(2_000), edits, (config, length, bytes) => {
    const stdin = Buffer.from(JSON.stringify(config));
    for (const [at, byte] of bytes) stdin[at % stdin.length] = byte;
    check(environment('ADD'), bytes.length === 0 ? stdin.subarray(0, length % stdin.length) : stdin);
  });
  t.notThrows(() => fc.assert(property, runs));
});

test('a configuration with any of its values changed is read or refused with one JSON object', (t) => {
  const changes = fc.array(anyChange, { minLength: 1, maxLength: 3 });
  const property = fc.property(fc.constantFrom(...verbs), anyConfig, changes, (verb, config, list) =>
    check(environment(verb), JSON.stringify(changed(config, list))),
  );
  t.notThrows(() => fc.assert(property, { numRuns: 2_000 }));
});

test('any runtimeConfig, args and prevResult are read or refused with one JSON object', (t) => {
  const portMapping = fc.record(
    { hostPort: anyValue, containerPort: anyValue, protocol: anyValue, hostIP: anyValue },
    { requiredKeys: [] },
  );
  const range = fc.record(
    { subnet: anyValue, rangeStart: anyValue, rangeEnd: anyValue, gateway: anyValue },
    { requiredKeys: [] },
  );
  const runtimeConfig = fc.record(
    {
      portMappings: fc.oneof(fc.array(portMapping, { maxLength: 3 }), anyValue),
      ipRanges: fc.oneof(fc.array(fc.array(range, { maxLength: 2 }), { maxLength: 2 }), anyValue),
      bandwidth: fc.oneof(fc.record({ ingressRate: anyValue, ingressBurst: anyValue }), anyValue),
      ips: fc.oneof(fc.array(anyValue, { maxLength: 2 }), anyValue),
      mac: anyValue,
    },
    { requiredKeys: [] },
  );
  const result = fc.record(
    {
      cniVersion: fc.constantFrom(...supportedVersions),
      ips: anyValue,
      ip4: anyValue,
      routes: anyValue,
      dns: anyValue,
    },
    { requiredKeys: [] },
  );
  const more = fc.record(
    { runtimeConfig, args: fc.record({ cni: anyValue }), prevResult: fc.oneof(result, anyValue) },
    { requiredKeys: [] },
  );
  const property = fc.property(fc.constantFrom(...verbs), anyConfig, more, (verb, config, keys) =>
    check(environment(verb), JSON.stringify({ ...config, ...keys })),
  );
  t.notThrows(() => fc.assert(property, { numRuns: 1_000 }));
});

test('keys mean the same in any case', (t) => {
  for (const { title, config } of configs) {
    const upper = Object.fromEntries(
      Object.entries(config).map(([key, value]) => [key.toUpperCase(), value]),
    );
    const [plain, other] = [config, upper].map((one) =>
      parseRequest(environment('ADD'), Buffer.from(JSON.stringify(one))),
    );
    t.false(plain instanceof CniError, title);
    t.deepEqual({ ...other, configText: '' }, { ...plain, configText: '' }, title);
  }
});

test('any error is one JSON object that says what the error says', (t) => {
  const property = fc.property(fc.integer(), anyText, anyText, anyText, (code, message, details, version) => {
    const read = JSON.parse(renderError(new CniError(code, message, details), version)) as Json;
    const wanted = { cniVersion: version, code, msg: message, ...(details !== '' && { details }) };
    return JSON.stringify(read) === JSON.stringify(wanted);
  });
  t.notThrows(() => fc.assert(property, runs));
  t.is(typeof JSON.parse(renderVersions()), 'object');
});

const largeInputs: readonly [what: string, stdin: string][] = [
  ['a name of a megabyte', JSON.stringify({ name: 'n'.repeat(1_000_000), type: 'bridge' })],
  [
    'eighty thousand keys',
    JSON.stringify(Object.fromEntries(Array.from({ length: 80_000 }, (_, i) => [`k${i}`, i]))),
  ],
  [
    'a list in a list, a thousand deep',
    `{"name":"n","type":"bridge","mtu":${'['.repeat(1_000)}${']'.repeat(1_000)}}`,
  ],
  ['a megabyte of spaces', `${' '.repeat(1_000_000)}{`],
  [
    'ten thousand host ports',
    JSON.stringify({
      name: 'n',
      type: 'fairlead',
      runtimeConfig: {
        portMappings: Array.from({ length: 10_000 }, (_, i) => ({
          hostPort: i + 1,
          containerPort: 80,
          protocol: 'tcp',
        })),
      },
    }),
  ],
  [
    'five hundred ranges',
    JSON.stringify({
      name: 'n',
      type: 'bridge',
      ipam: {
        type: 'host-local',
        ranges: [Array.from({ length: 500 }, (_, i) => ({ subnet: `10.${i >> 8}.${i & 255}.0/24` }))],
      },
    }),
  ],
];

for (const [what, stdin] of largeInputs) {
  test(`${what}: decided within a second`, (t) => {
    // Of this process: others may be at work on the machine.
    const before = process.cpuUsage();
    t.is(faultOf(read(environment('ADD'), Buffer.from(stdin))), undefined);
    const { user, system } = process.cpuUsage(before);
    t.true((user + system) / 1000 < parseMsMax);
  });
}

test('a list in a list, a hundred thousand deep, is refused with one JSON object', (t) => {
  const deep = '['.repeat(100_000) + ']'.repeat(100_000);
  t.is(faultOf(read(environment('ADD'), Buffer.from(deep))), undefined);
});
