import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import type { Result } from '../../../cni/result.ts';
import {
  applyTuning,
  parseAllowlist,
  parseTuning,
  planTuning,
  type TuningConfig,
  type TuningInput,
} from '../../../cni/types/tuning.ts';
import type { Mac } from '../../../core/address.ts';

const previous: Result = {
  interfaces: [
    { name: 'eth0', mac: '02:00:00:00:00:01' as Mac },
    { name: 'eth0', mac: '02:00:00:00:00:02' as Mac, mtuBytes: 1500, sandbox: '/run/netns/pod' },
  ],
  ips: [],
  routes: [],
  dns: { nameservers: [], search: [], options: [] },
};
const macs = ['02:00:00:00:00:0a', '02:00:00:00:00:0b', '02:00:00:00:00:0c', '02:00:00:00:00:0d'] as const;

function parse(config: Record<string, unknown>, input: Partial<TuningInput> = {}): TuningConfig | CniError {
  return parseTuning(foldKeys(config), { args: {}, ...input });
}

function messageOf(value: unknown): string {
  return value instanceof CniError ? value.message : `no error: ${JSON.stringify(value)}`;
}

/** The settings of a configuration, as text. */
function settings(
  config: Record<string, unknown>,
  ifname = 'eth0',
  input: Partial<TuningInput> = {},
): string[] {
  const parsed = parse(config, input);
  const rows = parsed instanceof CniError ? parsed : planTuning(parsed, { ifname, previous });
  if (rows instanceof CniError) return [`${rows.code} ${rows.message}`];
  return rows.pod.map((row) => `${row.kind} ${row.kind === 'sysctl' ? row.name : row.ifname} = ${row.value}`);
}

test('every setting is planned, in the order in which the reference plugin makes them', (t) => {
  const config = {
    txQLen: 0,
    allmulti: false,
    mtu: 1400,
    promisc: true,
    mac: macs[0],
    sysctl: { 'net.core.somaxconn': '500', 'net.ipv4.conf.IFNAME.arp_filter': '1' },
  };
  t.deepEqual(settings(config), [
    'sysctl net/core/somaxconn = 500',
    'sysctl net/ipv4/conf/eth0/arp_filter = 1',
    `mac eth0 = ${macs[0]}`,
    'promiscuous eth0 = true',
    'mtuBytes eth0 = 1400',
    'allMulticast eth0 = false',
    'txQueueLength eth0 = 0',
  ]);
});

test('what is not set is left as it is', (t) => {
  t.deepEqual(settings({}), []);
  t.deepEqual(settings({ mtu: 0, promisc: false, mac: '', sysctl: {}, allmulti: null }), []);
});

test('names of links may have dots, whatever parts the words', (t) => {
  const paths = (key: string, ifname: string) => settings({ sysctl: { [key]: '1' } }, ifname);
  t.deepEqual(paths('net.ipv4.conf.IFNAME.rp_filter', 'eth0.100'), [
    'sysctl net/ipv4/conf/eth0.100/rp_filter = 1',
  ]);
  t.deepEqual(paths('net/ipv4/conf/IFNAME/rp_filter', 'eth0.100'), [
    'sysctl net/ipv4/conf/eth0.100/rp_filter = 1',
  ]);
  t.deepEqual(paths('net/ipv4/conf/eth1.5/rp_filter', 'eth0'), ['sysctl net/ipv4/conf/eth1.5/rp_filter = 1']);
  t.deepEqual(paths('net.ipv4.conf.eth1/5.rp_filter', 'eth0'), ['sysctl net/ipv4/conf/eth1.5/rp_filter = 1']);
  t.deepEqual(paths('net.ipv4.conf.IFNAME.rp_filter', '$&'), [
    '7 invalid net sysctl key: "net/ipv4/conf/$&/rp_filter"',
  ]);
});

for (const [key, path] of [
  ['kernel.hostname', 'kernel/hostname'],
  ['net', 'net'],
  ['network.x', 'network/x'],
  ['', ''],
  ['/net/core/somaxconn', '/net/core/somaxconn'],
  ['net/../kernel/hostname', 'net/../kernel/hostname'],
  ['net/./core', 'net/./core'],
  ['net..core', 'net//core'],
  ['../net/core', '/'],
] as const) {
  test(`the parameter ${JSON.stringify(key)} is refused: not of the container's network`, (t) => {
    const [text] = settings({ sysctl: { [key]: '1' } });
    t.true(text?.startsWith('7 invalid net sysctl key: "'), text);
    if (path !== '/') t.is(text, `7 invalid net sysctl key: "${path}"`);
  });
}

test('args.cni goes before runtimeConfig, that before CNI_ARGS, that before the configuration', (t) => {
  const [first, second, third, fourth] = macs;
  const config = {
    mac: first,
    mtu: 1400,
    promisc: true,
    sysctl: { 'net.core.a': '1', 'net.core.b': '1' },
    runtimeConfig: { mac: third },
    args: {
      cni: { mac: fourth, mtu: 1300, promisc: false, sysctl: { 'net.core.b': '2', 'net.core.IFNAME': '3' } },
    },
  };
  const input = { args: { mac: second } };
  t.deepEqual(settings(config, 'eth0', input), [
    'sysctl net/core/a = 1',
    'sysctl net/core/b = 2',
    'sysctl net/core/eth0 = 3',
    `mac eth0 = ${fourth}`,
    'mtuBytes eth0 = 1300',
  ]);
  const { args: _, ...withoutArgs } = config;
  t.true(settings(withoutArgs, 'eth0', input).includes(`mac eth0 = ${third}`));
  const { runtimeConfig: __, ...withoutRuntime } = withoutArgs;
  t.true(settings(withoutRuntime, 'eth0', input).includes(`mac eth0 = ${second}`));
  t.true(settings(withoutRuntime).includes(`mac eth0 = ${first}`));
});

test('a value of the wrong type is refused with its place', (t) => {
  const config = { mtu: 'x', sysctl: { 'net.core.a': 1 }, args: { cni: { sysctl: [], promisc: 1 } } };
  t.is(
    messageOf(parse(config)),
    'failed to load netconf: args.cni.promisc: must be true or false, not 1; ' +
      'sysctl.net.core.a: must be text, not 1; args.cni.sysctl: must be an object, not []; ' +
      'mtu: must be a whole number from 0 to 2147483647, not "x"',
  );
});

test('what is no MAC address is refused, from wherever it comes', (t) => {
  const message = 'invalid args x for MAC addr: address x: invalid MAC address';
  t.is(messageOf(parse({ mac: 'x' })), message);
  t.is(messageOf(parse({}, { args: { mac: 'x' } })), message);
  t.is(messageOf(parse({ runtimeConfig: { mac: 'x' } })), message);
  t.is(messageOf(parse({ args: { cni: { mac: 'x' } } })), message);
});

test("only what the operator's list lets through is taken, and all where there is no list", (t) => {
  const allowlist = parseAllowlist('^net.core.*\n\n  ^net\\.ipv4\\.conf\\.[a-zA-Z]+\\.arp_filter$ \n');
  const allowed = (key: string) => parse({ sysctl: { [key]: '1' } }, { allowlist });
  t.false(allowed('net.core.somaxconn') instanceof CniError);
  t.false(allowed('net.ipv4.conf.IFNAME.arp_filter') instanceof CniError);
  t.is(
    messageOf(allowed('net.ipv4.ip_forward')),
    'Sysctl net.ipv4.ip_forward is not allowed. Only the following sysctls are allowed: ' +
      '[^net.core.* ^net\\.ipv4\\.conf\\.[a-zA-Z]+\\.arp_filter$]',
  );
  t.true(parse({ sysctl: { 'net.a.b': '1' } }, { allowlist: [] }) instanceof CniError);
  t.regex(
    messageOf(parse({ sysctl: { 'net.a.b': '1' } }, { allowlist: ['('] })),
    /allowlist\.conf: .*Invalid/,
  );
});

test('a parameter that stands there twice is refused', (t) => {
  const duplicated = 'duplicated sysctl keys are not allowed';
  const check = (configText: string) => messageOf(parse(JSON.parse(configText), { configText }));
  t.is(check('{"sysctl": {"net.core.a": "1", "net.core.a": "2"}}'), duplicated);
  t.is(check('{"args":{"cni":{"Sysctl":{"net.core.a":"{", "b":"}\\"", "net.core.a":"2"}}}}'), duplicated);
  t.regex(check('{"sysctl": {"net.core.a": "net.core.b", "net.core.b": "net.core.b"}}'), /^no error/);
  t.deepEqual(settings({ sysctl: { 'net.core.a': '1', 'net/core/a': '2' } }), [`7 ${duplicated}`]);
});

test('the plugin must be chained', (t) => {
  const parsed = parse({});
  if (parsed instanceof CniError) return t.fail(parsed.message);
  t.is(messageOf(planTuning(parsed, { ifname: 'eth0', previous: undefined })), 'Required prevResult missing');
});

test("the result tells the container's new MAC address and MTU, and nothing else changes in it", (t) => {
  const parsed = parse({ mac: macs[0], mtu: 1400 });
  const rows = parsed instanceof CniError ? parsed : planTuning(parsed, { ifname: 'eth0', previous });
  if (rows instanceof CniError) return t.fail(rows.message);
  t.deepEqual(applyTuning(previous, rows), {
    ...previous,
    interfaces: [
      { name: 'eth0', mac: '02:00:00:00:00:01' as Mac },
      { name: 'eth0', mac: macs[0] as Mac, mtuBytes: 1400, sandbox: '/run/netns/pod' },
    ],
  });
});

test('whatever the key of a parameter is, no path leaves /proc/sys/net', (t) => {
  const part = fc.constantFrom('net', 'core', 'IFNAME', '.', '..', '/', '', 'a', '\0', 'kernel');
  const key = fc.array(part, { maxLength: 8 }).map((parts) => parts.join(''));
  const ifname = fc.constantFrom('eth0', 'a.b', '...', 'x$1');
  fc.assert(
    fc.property(key, ifname, (name, device) => {
      const [text = ''] = settings({ sysctl: { [name]: '1' } }, device);
      if (text.startsWith('7 ')) return t.pass();
      const [, path = ''] = text.split(' ');
      t.is(new URL(`file:///proc/sys/${path}`).pathname, `/proc/sys/${path}`);
      t.true(path.startsWith('net/'));
    }),
    { numRuns: 500 },
  );
});
