import test from 'ava';
import fc from 'fast-check';
import { InputError } from '../../../core/errors.ts';
import { parseProxyConfiguration } from '../../../proxy/config/config.ts';
import { otherFlags, proxyFlags } from '../../../proxy/config/flag-table.ts';
import { flagDefaults, flagValues } from '../../../proxy/config/flags.ts';

const FILE = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n';

/** `{ name: text | texts }`. */
function withFlags(flags: Record<string, string | readonly string[]>, file?: string) {
  const texts = Object.entries(flags).map(([name, text]) => [name, [text].flat()] as const);
  return parseProxyConfiguration(file, { flags: new Map(texts) });
}

test('flags say what a file can say', (t) => {
  const { config, warnings } = withFlags({
    'proxy-mode': 'nftables',
    'masquerade-all': 'true',
    'iptables-sync-period': '1m',
    'iptables-min-sync-period': '0s',
    'cluster-cidr': '10.244.0.0/16,fd00::/56',
    'nodeport-addresses': ['10.0.0.0/8,11.0.0.0/8', 'fd00::/8'],
    'hostname-override': 'Node-7',
    'healthz-bind-address': '127.0.0.1',
    'metrics-bind-address': '',
    'oom-score-adj': '-5',
    'conntrack-max-per-core': '0',
    'conntrack-tcp-timeout-established': '0',
    'feature-gates': ['AllowServiceExternalIPs=false', 'AllowServiceExternalIPs = true'],
    kubeconfig: '/etc/kubeconfig',
    master: 'https://192.0.2.1:6443',
    'kube-api-qps': '2.5',
    v: '4',
  });
  t.deepEqual(warnings, []);
  t.like(config, {
    mode: 'nftables',
    policy: { masqueradeAll: true, nodePortAddresses: ['10.0.0.0/8', '11.0.0.0/8', 'fd00::/8'] as never },
    syncPeriodMs: 60_000,
    minSyncPeriodMs: 0,
    hostnameOverride: 'node-7',
    healthz: { host: '127.0.0.1' as never, port: 10256 },
    metrics: undefined,
    oomScoreAdj: -5,
    conntrack: { maxPerCore: 0, tcpEstablishedTimeoutMs: 0 },
    clientConnection: { kubeconfig: '/etc/kubeconfig', master: 'https://192.0.2.1:6443', qps: 2.5 },
    featureGates: { AllowServiceExternalIPs: true },
    verbosity: 4,
  });
});

test('beside a file only the node’s name, the API server and the logging flags count', (t) => {
  const { config, warnings } = withFlags(
    {
      'proxy-mode': 'ipvs',
      v: '6',
      'hostname-override': 'one',
      master: 'http://[::1]:1',
      'oom-score-adj': '1',
    },
    `${FILE}mode: iptables\nhostnameOverride: other\nlogging: {verbosity: 1}\n`,
  );
  t.like(config, { mode: 'iptables', hostnameOverride: 'one', verbosity: 6, oomScoreAdj: -999 });
  t.is(config.clientConnection.master, 'http://[::1]:1');
  t.deepEqual(warnings, ['--proxy-mode, --oom-score-adj do not count beside --config']);
});

test('deprecated flags work, with a warning', (t) => {
  const { config, warnings } = withFlags({
    'healthz-port': '0',
    'metrics-port': '1',
    'config-sync-period': '1m',
  });
  t.is(config.healthz, undefined);
  // The default address has a port, as upstream: the flag is for addresses without one.
  t.is(config.metrics?.port, 10249);
  t.is(withFlags({ 'metrics-bind-address': '::', 'metrics-port': '81' }).config.metrics?.port, 81);
  t.deepEqual(
    warnings.map((warning) => warning.split(' ')[0]),
    ['--healthz-port', '--metrics-port', '--config-sync-period'],
  );
});

test('every flag that cannot be used is named, with its value', (t) => {
  const error = t.throws(
    () =>
      withFlags({
        'proxy-modes': 'x',
        'masquerade-all': 'perhaps',
        'oom-score-adj': '1.5',
        'ipvs-udp-timeout': '3',
        'bind-address': 'eth0',
        'healthz-bind-address': 'localhost:1',
        'feature-gates': 'A',
        'kube-api-qps': '',
        'healthz-port': '-1',
        vmodule: 'x',
        'iptables-masquerade-bit': '99',
      }),
    { instanceOf: InputError },
  );
  t.deepEqual(
    error?.problems.map(({ path, message }) => `${path}: ${message}`),
    [
      '--proxy-modes: is not a flag',
      '--masquerade-all: is not true or false: "perhaps"',
      '--oom-score-adj: is not a whole number of 32 bits: "1.5"',
      '--ipvs-udp-timeout: is not a duration such as "30s" or "1h0m0s": "3"',
      '--bind-address: is not an IP address: "eth0"',
      '--healthz-bind-address: is not an IP address, with a port or without: "localhost:1"',
      '--feature-gates: is not made of pairs such as Name=true: "A"',
      '--kube-api-qps: is not a number: ""',
      '--vmodule: is not made of pairs such as file=2: "x"',
      '--healthz-port: is not a port: "-1"',
      'iptables.masqueradeBit: must be 0 to 31: 99',
    ],
  );
});

test('every flag has a name of its own and a default', (t) => {
  const names = [...proxyFlags, ...otherFlags].map(({ name }) => name);
  t.is(new Set(names).size, names.length);
  t.deepEqual([...flagDefaults().keys()], names.toSorted());
  t.is(flagDefaults().get('conntrack-tcp-timeout-established'), '24h0m0s');
});

test('a flag with its own value changes nothing', (t) => {
  const { document } = parseProxyConfiguration(undefined);
  for (const { name, placeholder } of proxyFlags) {
    const text = flagDefaults().get(name) ?? '';
    if (text === '' || text === '[]') continue;
    t.truthy(placeholder ?? ['true', 'false'].includes(text), name);
    const again = withFlags({ [name]: text }).document;
    if (name.startsWith('log-')) continue;
    t.deepEqual(again, document, name);
  }
  t.is(flagValues(document, new Map([['master', ['http://x']]])).get('master'), 'http://x');
});

test('nonsense in a flag is refused by its name or read, and never anything else', (t) => {
  const name = fc.constantFrom(...proxyFlags.map((flag) => flag.name));
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom('', '0', '-1', '10.0.0.0/8', '1h', '::', '[::]:80', 'a=b'),
  );
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.dictionary(name, text), (flags) => {
        try {
          withFlags(flags);
        } catch (error) {
          if (!(error instanceof InputError)) throw error;
        }
      }),
    ),
  );
});
