import test from 'ava';
import fc from 'fast-check';
import { stringify } from 'yaml';
import { InputError } from '../../../core/errors.ts';
import { detectCidrs, parseProxyConfiguration } from '../../../proxy/config/config.ts';
import { writeDocument } from '../../../proxy/config/document.ts';

const HEAD = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n';

function read(text: string) {
  return parseProxyConfiguration(HEAD + text, { name: 'config.conf' });
}

/** "path: message" of every problem. */
function problemsOf(text: string): string[] {
  try {
    read(text);
  } catch (error) {
    if (error instanceof InputError) return error.problems.map(({ path, message }) => `${path}: ${message}`);
    throw error;
  }
  return [];
}

test('without a file and flags everything has kube-proxy’s defaults', (t) => {
  const { config, warnings } = parseProxyConfiguration(undefined);
  t.deepEqual(warnings, []);
  t.like(config, {
    mode: undefined,
    policy: {
      masqueradeAll: false,
      masqueradeBit: 14,
      detectLocal: { mode: 'none' },
      nodePortAddresses: [],
      localhostNodePorts: true,
    },
    hostnameOverride: undefined,
    bindAddress: '0.0.0.0' as never,
    healthz: { host: '0.0.0.0' as never, port: 10256 },
    metrics: { host: '127.0.0.1' as never, port: 10249 },
    bindAddressHardFail: false,
    syncPeriodMs: 30_000,
    minSyncPeriodMs: 1000,
    configSyncPeriodMs: 900_000,
    conntrack: {
      maxPerCore: 32768,
      min: 131072,
      tcpEstablishedTimeoutMs: 86_400_000,
      tcpCloseWaitTimeoutMs: 3_600_000,
      tcpBeLiberal: false,
      udpTimeoutMs: 0,
      udpStreamTimeoutMs: 0,
    },
    oomScoreAdj: -999,
    clientConnection: { kubeconfig: undefined, master: undefined, qps: 5, burst: 10 },
    ipvs: { scheduler: 'rr', excludeCidrs: [], strictArp: false },
  });
});

test('a file as kubeadm writes it means what its nulls and zeros mean to kube-proxy', (t) => {
  const { config, warnings } = read(`
bindAddress: "::"
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: " Node-1 "
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 2}
metricsBindAddress: ""
mode: nftables
nftables: {masqueradeAll: true, masqueradeBit: 0, minSyncPeriod: 2s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
`);
  t.deepEqual(warnings, []);
  t.like(config, {
    mode: 'nftables',
    policy: {
      masqueradeAll: true,
      masqueradeBit: 0,
      detectLocal: { mode: 'cidrs', cidrs: ['10.244.0.0/16', 'fd00:10:244::/56'] as never },
      nodePortAddresses: 'primary',
    },
    hostnameOverride: 'node-1',
    healthz: { host: '::' as never, port: 10256 },
    metrics: { host: '::1' as never, port: 10249 },
    syncPeriodMs: 30_000,
    minSyncPeriodMs: 2000,
    configSyncPeriodMs: 900_000,
    clientConnection: { kubeconfig: '/var/lib/kube-proxy/kubeconfig.conf', qps: 5, burst: 10 },
    oomScoreAdj: -999,
    verbosity: 2,
  });
  t.is(config.conntrack.tcpEstablishedTimeoutMs, 0);
  t.is(config.conntrack.tcpCloseWaitTimeoutMs, 3_600_000);
});

test('JSON is read, too, and YAML 1.1’s words for true', (t) => {
  const json = {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: 'ipvs',
  };
  t.is(parseProxyConfiguration(JSON.stringify(json, undefined, '\t')).config.mode, 'ipvs');
  t.true(read('bindAddressHardFail: yes').config.bindAddressHardFail);
});

test('fields that are unknown or repeated are overlooked with one warning that names them', (t) => {
  const { config, warnings } = read('mode: ipvs\nmode: iptables\nudpIdleTimeout: 1s\niptables: {x: 1}\n');
  t.is(config.mode, 'iptables');
  t.deepEqual(warnings, [
    'config.conf is read leniently: udpIdleTimeout is not a field of this kind; iptables.x is not a field of ' +
      'this kind; line 4, column 1 says a field again',
  ]);
});

test('what means nothing here is said', (t) => {
  const { warnings } = read(
    'featureGates: {AllowServiceExternalIPs: false, Other: true}\nenableProfiling: true\n---\n',
  );
  t.is(warnings.length, 3);
});

const refused: readonly (readonly [string, readonly string[]])[] = [
  ['mode: userspace', ['mode: is none of iptables, ipvs, nftables: "userspace"']],
  ['mode: 3', ['mode: is not text: 3']],
  ['iptables: [1]', ['iptables: is not an object: [1]']],
  ['nodePortAddresses: 10.0.0.0/8', ['nodePortAddresses: is not a list: "10.0.0.0/8"']],
  ['oomScoreAdj: "5"', ['oomScoreAdj: is not a whole number: "5"']],
  ['oomScoreAdj: -1001', ['oomScoreAdj: must be -1000 to 1000: -1001']],
  ['iptables: {masqueradeBit: 32}', ['iptables.masqueradeBit: must be 0 to 31: 32']],
  ['iptables: {syncPeriod: 5}', ['iptables.syncPeriod: is not a duration such as "30s" or "1h0m0s": 5']],
  [
    'iptables: {syncPeriod: -1s, minSyncPeriod: -2s}',
    [
      'iptables.syncPeriod: must be greater than 0: "-1s"',
      'iptables.minSyncPeriod: must not be negative: "-2s"',
    ],
  ],
  [
    'mode: nftables\nnftables: {syncPeriod: 1s, minSyncPeriod: 2s}',
    ['nftables.minSyncPeriod: must not be longer than nftables.syncPeriod, "1s": "2s"'],
  ],
  ['bindAddress: nowhere', ['bindAddress: is not an IP address: "nowhere"']],
  [
    'healthzBindAddress: 0.0.0.0:0',
    ['healthzBindAddress: is not IP:port (a port is 1 to 65535): "0.0.0.0:0"'],
  ],
  ['metricsBindAddress: here:80', ['metricsBindAddress: is not IP:port (a port is 1 to 65535): "here:80"']],
  [
    'nodePortAddresses: [primary, 10.0.0.1, 10.0.0.0/33, 10.0.0.9/8]',
    [
      'nodePortAddresses[0]: "primary" stands alone, without others',
      'nodePortAddresses[1]: is not a network such as 10.0.0.0/8 or fd00::/8: "10.0.0.1"',
      'nodePortAddresses[2]: is not a network such as 10.0.0.0/8 or fd00::/8: "10.0.0.0/33"',
    ],
  ],
  [
    'clusterCIDR: 10.0.0.0/8,11.0.0.0/8',
    ['clusterCIDR: is not one network, or one of each family: "10.0.0.0/8,11.0.0.0/8"'],
  ],
  [
    'detectLocalMode: Magic',
    ['detectLocalMode: is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix: "Magic"'],
  ],
  [
    'detectLocalMode: BridgeInterface',
    ['detectLocal.bridgeInterface: must not be empty where detectLocalMode is BridgeInterface'],
  ],
  [
    'conntrack: {udpTimeout: -1s, maxPerCore: -1}',
    [
      'conntrack.maxPerCore: must be 0 to 2147483647: -1',
      'conntrack.udpTimeout: must not be negative: "-1s"',
    ],
  ],
  [
    'mode: ipvs\nipvs: {excludeCIDRs: [x], tcpTimeout: -1s}',
    [
      'ipvs.tcpTimeout: must not be negative: "-1s"',
      'ipvs.excludeCIDRs[0]: is not a network such as 10.0.0.0/8 or fd00::/8: "x"',
    ],
  ],
  ['showHiddenMetricsForVersion: v1', ['showHiddenMetricsForVersion: is not like "1.36": "v1"']],
  ['featureGates: {A: 1}', ['featureGates.A: is not true or false: 1']],
  ['logging: {format: xml}', ['logging.format: is none of text, json: "xml"']],
];

for (const [text, problems] of refused) {
  test(`refused with every problem named: ${text.replaceAll('\n', '; ')}`, (t) => {
    t.deepEqual(problemsOf(text), [...problems]);
  });
}

test('what is no KubeProxyConfiguration is refused', (t) => {
  const refuse = (text: string) => t.throws(() => parseProxyConfiguration(text), { instanceOf: InputError });
  for (const text of [
    '',
    'a: [',
    '[]',
    '3',
    'kind: KubeletConfiguration',
    '"',
    '\0',
    '&a [*a]',
    '['.repeat(20_000),
  ])
    refuse(text);
  const many = `a: &a [1, &b [2], *b]\nb: [${Array(2000).fill('*a').join(', ')}]`;
  refuse(HEAD + many);
  t.regex(refuse('kind: X')?.message ?? '', /apiVersion: is not .*missing; kind: is not .*"X"/);
});

test('modes take masquerading and periods from their own sections', (t) => {
  const sections =
    'iptables: {masqueradeAll: true, masqueradeBit: 1, syncPeriod: 1m}\nipvs: {syncPeriod: 2m}\n' +
    'nftables: {masqueradeBit: 3, syncPeriod: 3m}\n';
  const summary = (mode: string) => {
    const { policy, syncPeriodMs } = read(`${sections}mode: "${mode}"`).config;
    return [policy.masqueradeAll, policy.masqueradeBit, syncPeriodMs / 60_000, policy.nodePortAddresses];
  };
  t.deepEqual(summary(''), [true, 1, 1, []]);
  t.deepEqual(summary('iptables'), [true, 1, 1, []]);
  t.deepEqual(summary('ipvs'), [true, 1, 2, []]);
  t.deepEqual(summary('nftables'), [false, 3, 3, 'primary']);
});

test('pods are told by networks, bridges or names of interfaces; the first network of each family counts', (t) => {
  const detect = (text: string) => read(text).config.policy.detectLocal as object;
  t.deepEqual(detect('detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}'), {
    mode: 'bridge',
    name: 'cni0',
  });
  t.deepEqual(detect('detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}'), {
    mode: 'interfacePrefix',
    prefix: 'veth',
  });
  t.true(read('detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8').config.detectsNodeCidrs);
  t.deepEqual(detect('detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8'), { mode: 'none' });
  t.deepEqual(detectCidrs(['10.1.0.0/24', '10.2.0.0/24', 'fd00::/64']) as object, {
    mode: 'cidrs',
    cidrs: ['10.1.0.0/24', 'fd00::/64'],
  });
  t.deepEqual(detectCidrs(['x']) as object, { mode: 'none' });
});

test('what is written is read again as it was', (t) => {
  const { document } = read('mode: ipvs\nconntrack: {udpTimeout: 1.5s}\nnodePortAddresses: [10.0.0.0/8]\n');
  const again = parseProxyConfiguration(stringify(writeDocument(document)));
  t.deepEqual(again.warnings, []);
  t.deepEqual(again.document, document);
});

test('nonsense anywhere is refused by name or read, and never anything else', (t) => {
  const keys = [
    ...Object.keys(writeDocument(parseProxyConfiguration(undefined).document)),
    ...['masqueradeBit', 'syncPeriod', 'kubeconfig', '__proto__', 'constructor'],
  ];
  const value = fc.letrec((tie) => ({
    any: fc.oneof(
      { maxDepth: 3 },
      fc.jsonValue({ maxDepth: 1 }),
      fc.constantFrom('30s', '0.0.0.0:1', '10.0.0.0/8', 'primary', -1, 2 ** 40, '\u0000'),
      fc.dictionary(fc.constantFrom(...keys), tie('any'), { maxKeys: 4 }),
    ),
  })).any;
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...keys), value), (fields) => {
        const text = HEAD + stringify({ ...fields, apiVersion: undefined, kind: undefined });
        try {
          parseProxyConfiguration(text);
        } catch (error) {
          if (!(error instanceof InputError) || error.problems.length === 0) throw error;
        }
      }),
    ),
  );
});
