import test from 'ava';
import { InputError } from '../../core/errors.ts';
import { flannelFlags, flannelVariable } from '../../daemon/flannel-flag-table.ts';
import { parseFlannelFlags, parseNodeFlags } from '../../daemon/flannel-flags.ts';

const parse = (args: string, environment: Record<string, string> = {}) =>
  parseFlannelFlags(args.split(' ').filter(Boolean), environment);

function problemsOf(args: string, environment: Record<string, string> = {}): string[] {
  try {
    parse(args, environment);
    return [];
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return error.problems.map(({ path, message }) => `${path}: ${message}`);
  }
}

test('without a word, flanneld’s defaults hold', (t) => {
  t.deepEqual(parse('') as unknown, {
    store: {
      kind: 'etcd',
      endpoints: ['http://127.0.0.1:4001', 'http://127.0.0.1:2379'],
      prefix: '/coreos.com/network',
      renewMarginSeconds: 3600,
    },
    underlay: { interfaces: [], patterns: [], publicIps: {} },
    subnetFile: '/run/flannel/subnet.env',
    masquerade: false,
    randomPorts: true,
    forwardRules: true,
    nonMasqueradeCidrs: [],
    blackholeRoute: false,
    verbosity: 0,
    version: false,
    warnings: [],
  });
});

test('flannel’s manifest is understood', (t) => {
  const environment = { NODE_NAME: '', POD_NAME: 'kube-flannel-ds-x', POD_NAMESPACE: 'kube-flannel' };
  const options = parse('--ip-masq --kube-subnet-mgr', { ...environment, EVENT_QUEUE_DEPTH: '5000' });
  t.true(options.masquerade);
  t.deepEqual(options.store, {
    kind: 'kubernetes',
    annotationPrefix: 'flannel.alpha.coreos.com/',
    setNetworkUnavailable: true,
    netConfigPath: '/etc/kube-flannel/net-conf.json',
    pod: { name: 'kube-flannel-ds-x', namespace: 'kube-flannel' },
  });
});

test('everything that can be said is taken', (t) => {
  const etcd = parse(
    '--etcd-endpoints=https://a:1,b:2 --etcd-prefix /net/ --etcd-keyfile k --etcd-certfile c --etcd-cafile ca ' +
      '--etcd-username u --etcd-password p --subnet-lease-renew-margin 90 --iface eth0 -iface 192.0.2.1 ' +
      '--iface-regex ^eth --iface-regex=(?i)^WLAN --iface-can-reach 192.0.2.9 --public-ip 203.0.113.1 ' +
      '--public-ipv6 2001:DB8::1 --subnet-file /x --ip-masq=T --ip-masq-fully-random-disable --healthz-ip ::1 ' +
      '--healthz-port 8080 --iptables-resync 0x10 --iptables-forward-rules=false --ip-blackhole-route -v=4 ' +
      '--version --vmodule a=1 --non-masquerade-cidrs=10.0.0.0/8,fd00::/8',
    { WIREGUARD_KEY_FILE: '/key' },
  );
  t.deepEqual(etcd as unknown, {
    store: {
      kind: 'etcd',
      endpoints: ['https://a:1', 'https://b:2'],
      prefix: '/net',
      caFile: 'ca',
      certFile: 'c',
      keyFile: 'k',
      username: 'u',
      password: 'p',
      renewMarginSeconds: 5400,
    },
    underlay: {
      interfaces: ['eth0', '192.0.2.1'],
      patterns: [/^eth/, /^WLAN/i],
      canReach: '192.0.2.9',
      publicIps: { 4: '203.0.113.1', 6: '2001:db8::1' },
    },
    subnetFile: '/x',
    masquerade: true,
    randomPorts: false,
    forwardRules: false,
    nonMasqueradeCidrs: ['10.0.0.0/8', 'fd00::/8'],
    blackholeRoute: true,
    health: { ip: '::1', port: 8080 },
    wireguardKeyFile: '/key',
    verbosity: 4,
    version: true,
    warnings: ['--iptables-resync has no effect', '--vmodule has no effect'],
  });
  const kube = parse(
    '-kube-subnet-mgr=1 --kube-api-url https://192.0.2.1:6443 --kubeconfig-file /k --kube-annotation-prefix a.b/c ' +
      '--net-config-path /n --set-node-network-unavailable=0',
    { NODE_NAME: 'node-1' },
  );
  t.deepEqual(kube.store, {
    kind: 'kubernetes',
    apiUrl: 'https://192.0.2.1:6443',
    kubeconfig: '/k',
    annotationPrefix: 'a.b/c-',
    setNetworkUnavailable: false,
    netConfigPath: '/n',
    nodeName: 'node-1',
  });
});

test('every flag has a variable, which a flag on the command line overrules; an empty one counts as absent', (t) => {
  t.is(flannelVariable('etcd-prefix'), 'FLANNELD_ETCD_PREFIX');
  t.is(flannelVariable('log_backtrace_at'), 'FLANNELD_LOG_BACKTRACE_AT');
  const environment = { FLANNELD_IP_MASQ: 'true', FLANNELD_IFACE: 'eth1', FLANNELD_SUBNET_FILE: '' };
  const options = parse('--iface eth0', environment);
  t.true(options.masquerade);
  t.deepEqual(options.underlay.interfaces, ['eth0']);
  t.is(options.subnetFile, '/run/flannel/subnet.env');
  const wrong = Object.fromEntries(flannelFlags.map(({ name }) => [flannelVariable(name), '@ @']));
  const told = [...problemsOf('', wrong), ...problemsOf('--kube-subnet-mgr', wrong)].join('\n');
  for (const { name, kind } of flannelFlags) {
    if (kind === 'boolean' || kind === 'number')
      t.true(name === 'kube-subnet-mgr' || told.includes(flannelVariable(name)), name);
  }
});

test('every problem is named at once, by flag or variable, with its value; a password is not', (t) => {
  const args =
    '--etcd-endpoints=ftp://a --etcd-prefix=net --etcd-keyfile=k --etcd-password=hunter2 --iface-regex=( ' +
    '--iface-can-reach=router --public-ip=2001:db8::1 --public-ipv6=192.0.2.1 --subnet-lease-renew-margin=1440 ' +
    '--ip-masq=yes --healthz-port=65536 --wonder --non-masquerade-cidrs=10.0.0.1/8';
  const problems = problemsOf(args, { FLANNELD_IPTABLES_RESYNC: '-5' });
  t.deepEqual(problems.map((problem) => problem.replace(/: Invalid regular.*/, '')).sort(), [
    '--etcd-endpoints: is not a URL such as http://192.0.2.1:2379: "ftp://a"',
    '--etcd-keyfile: is given without --etcd-certfile: "k"',
    '--etcd-password: is given without --etcd-username',
    '--etcd-prefix: does not begin with a slash: "net"',
    '--healthz-port: is not a whole number from 0 to 65535: "65536"',
    '--iface-can-reach: is not an IP address: "router"',
    '--iface-regex: is not a regular expression: "("',
    '--ip-masq: is not true or false: "yes"',
    '--non-masquerade-cidrs: is not a network such as 192.0.2.0/24 (host bits zero): "10.0.0.1/8"',
    '--public-ip: is not an IPv4 address: "2001:db8::1"',
    '--public-ipv6: is not an IPv6 address: "192.0.2.1"',
    '--subnet-lease-renew-margin: is not a whole number from 1 to 1439: "1440"',
    "--wonder: is not a flag of flanneld's",
    'FLANNELD_IPTABLES_RESYNC: is not a whole number from 1 to 86400: "-5"',
  ]);
  t.deepEqual(problemsOf('--iface'), ['--iface: has no value']);
  t.deepEqual(problemsOf('eth0 --iface'), ["eth0: is not a flag of flanneld's"]);
  t.deepEqual(problemsOf('--kube-subnet-mgr --kube-annotation-prefix=x --kube-api-url=x'), [
    '--kube-api-url: is not a URL: "x"',
    '--kube-annotation-prefix: "x" is not a domain, or a domain, a slash and a name',
  ]);
});

test('with kube-subnet-mgr, what is said of etcd is checked as well', (t) => {
  t.deepEqual(problemsOf('--kube-subnet-mgr --subnet-lease-renew-margin=1440 --etcd-certfile=c'), [
    '--etcd-certfile: is given without --etcd-keyfile: "c"',
    '--subnet-lease-renew-margin: is not a whole number from 1 to 1439: "1440"',
  ]);
});

test('fairlead node has what it shares with flanneld by the same names and variables, and no endpoint by default', (t) => {
  const defaults = parseNodeFlags(new Map(), {});
  t.deepEqual(defaults as unknown, {
    underlay: { interfaces: [], patterns: [], publicIps: {} },
    ...{ randomPorts: true, forwardRules: true, nonMasqueradeCidrs: [], blackholeRoute: false },
    ...{ annotationPrefix: 'flannel.alpha.coreos.com/', setNetworkUnavailable: true },
  });
  const environment = { FLANNELD_ETCD_ENDPOINTS: 'a:1', FLANNELD_IFACE: 'eth1', FLANNELD_IP_MASQ: 'x' };
  const given = new Map([['iface', ['eth0', 'eth2']]]);
  const { etcd, underlay } = parseNodeFlags(given, environment);
  t.deepEqual([etcd?.endpoints, underlay.interfaces], [['http://a:1'], ['eth0', 'eth2']]);
  const error = t.throws(() => parseNodeFlags(new Map([['public-ip', ['::1']]]), {}), {
    instanceOf: InputError,
  });
  t.is(error?.message, 'options: --public-ip: is not an IPv4 address: "::1"');
});
