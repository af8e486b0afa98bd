import type { KubeProxyConfiguration } from './document.ts';
import {
  at,
  type Flag,
  flagOf,
  list,
  number,
  parseBoolean,
  parseReal,
  readAddress,
  readAddressAndPort,
  time,
  words,
  yesNo,
} from './flag-kinds.ts';

const top = (document: KubeProxyConfiguration) => document;
const iptables = (document: KubeProxyConfiguration) => document.iptables;
const ipvs = (document: KubeProxyConfiguration) => document.ipvs;
const conntrack = (document: KubeProxyConfiguration) => document.conntrack;
const connection = (document: KubeProxyConfiguration) => document.clientConnection;
const detect = (document: KubeProxyConfiguration) => document.detectLocal;
const logging = (document: KubeProxyConfiguration) => document.logging;
const logText = (document: KubeProxyConfiguration) => document.logging.options.text;
const logJson = (document: KubeProxyConfiguration) => document.logging.options.json;

const featureGates: Flag = {
  name: 'feature-gates',
  placeholder: 'gates',
  help: 'pairs such as AllowServiceExternalIPs=false',
  apply(document, text) {
    for (const pair of text.split(',').filter((part) => part.trim() !== '')) {
      const [, name = '', value = ''] = /^\s*([^=]+?)\s*=\s*(.*?)\s*$/.exec(pair) ?? [];
      if (name === '') throw new TypeError('is not made of pairs such as Name=true');
      document.featureGates = { ...document.featureGates, [name]: parseBoolean(value) };
    }
  },
  show: ({ featureGates: gates }) =>
    Object.entries(gates)
      .map(([name, value]) => `${name}=${value}`)
      .join(','),
};

const vmodule: Flag = {
  name: 'vmodule',
  placeholder: 'levels',
  help: 'accepted: pairs of a file and its verbosity',
  besideFile: true,
  apply(document, text) {
    for (const pair of text.split(',').filter((part) => part !== '')) {
      const [, filePattern = '', level = ''] = /^([^=]+)=(\d+)$/.exec(pair) ?? [];
      if (filePattern === '') throw new TypeError('is not made of pairs such as file=2');
      document.logging.vmodule = [...document.logging.vmodule, { filePattern, verbosity: Number(level) }];
    }
  },
  show: (document) =>
    document.logging.vmodule.map(({ filePattern, verbosity }) => `${filePattern}=${verbosity}`).join(','),
};

const besideFile = { besideFile: true } as const;

/** kube-proxy's flags on Linux (cmd/kube-proxy/app/options.go of 1.36) that say what a file can say, and `--master`. */
export const proxyFlags: readonly Flag[] = [
  featureGates,
  words(at(connection, 'kubeconfig'))('kubeconfig', 'path', 'how to reach the API server, and as whom'),
  words(at(connection, 'contentType'))('kube-api-content-type', 'type', 'accepted: we read JSON'),
  number(at(connection, 'burst'))('kube-api-burst', 'requests', 'accepted: requests in one burst'),
  flagOf(at(connection, 'qps'), parseReal)('kube-api-qps', 'rate', 'accepted: requests in a second'),
  words(at(top, 'hostnameOverride'))(
    'hostname-override',
    'name',
    "the node's name, if not the machine's",
    besideFile,
  ),
  flagOf(at(top, 'bindAddress'), readAddress)(
    'bind-address',
    'ip',
    "the node's primary address; nothing is bound to it",
  ),
  flagOf(at(top, 'healthzBindAddress'), readAddressAndPort)(
    'healthz-bind-address',
    'address',
    'serve /healthz and /livez here; "" does not',
  ),
  flagOf(at(top, 'metricsBindAddress'), readAddressAndPort)(
    'metrics-bind-address',
    'address',
    'serve /metrics here; "" does not',
  ),
  yesNo(at(top, 'bindAddressHardFail'))(
    'bind-address-hard-fail',
    undefined,
    'end where a server cannot listen',
  ),
  yesNo(at(top, 'enableProfiling'))('profiling', undefined, 'accepted: there are no profiles to serve'),
  words(at(top, 'showHiddenMetricsForVersion'))(
    'show-hidden-metrics-for-version',
    'version',
    'accepted: no metrics are hidden',
  ),
  words(at(top, 'mode'))('proxy-mode', 'mode', 'nftables, iptables or ipvs'),
  number(at(iptables, 'masqueradeBit'))('iptables-masquerade-bit', 'bit', 'of the packet mark, 0 to 31'),
  yesNo(at(iptables, 'masqueradeAll'))('masquerade-all', undefined, 'masquerade all traffic to cluster IPs'),
  yesNo(at(iptables, 'localhostNodePorts'))(
    'iptables-localhost-nodeports',
    undefined,
    'node ports on 127.0.0.1, too',
  ),
  time(at(iptables, 'syncPeriod'))('iptables-sync-period', 'duration', 'how often to repair and clean up'),
  time(at(iptables, 'minSyncPeriod'))(
    'iptables-min-sync-period',
    'duration',
    'time between two changes at least',
  ),
  time(at(ipvs, 'syncPeriod'))('ipvs-sync-period', 'duration', 'the same with ipvs'),
  time(at(ipvs, 'minSyncPeriod'))('ipvs-min-sync-period', 'duration', 'the same with ipvs'),
  words(at(ipvs, 'scheduler'))('ipvs-scheduler', 'name', 'of the kernel’s schedulers'),
  list(at(ipvs, 'excludeCIDRs'), 'ipvs-exclude-cidrs', 'cidrs', 'virtual servers there are left alone'),
  yesNo(at(ipvs, 'strictARP'))('ipvs-strict-arp', undefined, 'arp_ignore 1, arp_announce 2'),
  time(at(ipvs, 'tcpTimeout'))('ipvs-tcp-timeout', 'duration', 'of idle connections; 0: as it is'),
  time(at(ipvs, 'tcpFinTimeout'))('ipvs-tcpfin-timeout', 'duration', 'after a FIN; 0: as it is'),
  time(at(ipvs, 'udpTimeout'))('ipvs-udp-timeout', 'duration', 'of UDP; 0: as it is'),
  words(at(top, 'detectLocalMode'))(
    'detect-local-mode',
    'mode',
    'how pods are known: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix',
  ),
  words(at(detect, 'bridgeInterface'))(
    'pod-bridge-interface',
    'name',
    'of the pods’ bridge, with BridgeInterface',
  ),
  words(at(detect, 'interfaceNamePrefix'))(
    'pod-interface-name-prefix',
    'prefix',
    'of the pods’ interfaces, with InterfaceNamePrefix',
  ),
  words(at(top, 'clusterCIDR'))('cluster-cidr', 'cidrs', 'the pods’ network, or one of each family'),
  list(
    at(top, 'nodePortAddresses'),
    'nodeport-addresses',
    'cidrs',
    'node ports are open on these addresses, or on "primary"',
  ),
  number(at(top, 'oomScoreAdj'))('oom-score-adj', 'score', 'of this process, -1000 to 1000'),
  number(at(conntrack, 'maxPerCore'))('conntrack-max-per-core', 'flows', 'tracked connections; 0: as it is'),
  number(at(conntrack, 'min'))('conntrack-min', 'flows', 'at least, whatever the number of cores'),
  time(at(conntrack, 'tcpEstablishedTimeout'))(
    'conntrack-tcp-timeout-established',
    'duration',
    '0: as it is',
  ),
  time(at(conntrack, 'tcpCloseWaitTimeout'))('conntrack-tcp-timeout-close-wait', 'duration', '0: as it is'),
  yesNo(at(conntrack, 'tcpBeLiberal'))(
    'conntrack-tcp-be-liberal',
    undefined,
    'packets outside the window are valid',
  ),
  time(at(conntrack, 'udpTimeout'))('conntrack-udp-timeout', 'duration', 'without an answer; 0: as it is'),
  time(at(conntrack, 'udpStreamTimeout'))(
    'conntrack-udp-timeout-stream',
    'duration',
    'with answers; 0: as it is',
  ),
  time(at(top, 'configSyncPeriod'))('config-sync-period', 'duration', 'accepted: changes are watched', {
    deprecated: 'changes are watched for, not asked for',
  }),
  words(at(logging, 'format'))('logging-format', 'format', 'accepted: we log JSON', besideFile),
  number(at(logging, 'verbosity'))('v', 'level', '4 is debugging, 6 everything', besideFile),
  vmodule,
  time(at(logging, 'flushFrequency'))(
    'log-flush-frequency',
    'duration',
    'accepted: logs are not held back',
    besideFile,
  ),
  yesNo(at(logText, 'splitStream'))('log-text-split-stream', undefined, 'accepted', besideFile),
  flagOf<string | number>(at(logText, 'infoBufferSize'), String)(
    'log-text-info-buffer-size',
    'bytes',
    'accepted',
    besideFile,
  ),
  yesNo(at(logJson, 'splitStream'))('log-json-split-stream', undefined, 'accepted', besideFile),
  flagOf<string | number>(at(logJson, 'infoBufferSize'), String)(
    'log-json-info-buffer-size',
    'bytes',
    'accepted',
    besideFile,
  ),
];

/** Flags without a place in the document. */
export const otherFlags: readonly Pick<Flag, 'name' | 'placeholder' | 'help' | 'deprecated'>[] = [
  { name: 'master', placeholder: 'url', help: "the API server; wins over the kubeconfig's" },
  {
    name: 'healthz-port',
    placeholder: 'port',
    help: '0 serves no /healthz',
    deprecated: 'use --healthz-bind-address',
  },
  {
    name: 'metrics-port',
    placeholder: 'port',
    help: '0 serves no /metrics',
    deprecated: 'use --metrics-bind-address',
  },
];
