import { hash, type Layout } from './layout.ts';
import { type PlainService, POD_NETWORK, SERVICE_PORT, TARGET_PORT } from './world.ts';

const TABLE = 'ip kube-proxy';
const MARK = '0x4000';

function chainName(kind: string, { name }: PlainService): string {
  return `${kind}-${hash(name, 8)}-default/${name}/tcp/http`;
}

function* baseChains(chains: Readonly<Record<string, string>>): Generator<string> {
  yield `add table ${TABLE}`;
  for (const [name, hook] of Object.entries(chains)) yield `add chain ${TABLE} ${name} { type ${hook} ; }`;
}

function* plainChains(chains: Readonly<Record<string, readonly string[]>>): Generator<string> {
  for (const name of Object.keys(chains)) yield `add chain ${TABLE} ${name}`;
  for (const [name, rules] of Object.entries(chains)) {
    for (const text of rules) yield `add rule ${TABLE} ${name} ${text}`;
  }
}

const frontend = 'ip daddr . meta l4proto . th dport';
const frontendType = 'type ipv4_addr . inet_proto . inet_service : verdict ;';
const portType = 'type inet_proto . inet_service : verdict ;';

const containers = [
  `add set ${TABLE} cluster-ips { type ipv4_addr ; }`,
  `add set ${TABLE} nodeport-ips { type ipv4_addr ; }`,
  `add map ${TABLE} service-ips { ${frontendType} }`,
  `add map ${TABLE} service-nodeports { ${portType} }`,
  `add map ${TABLE} no-endpoint-services { ${frontendType} }`,
  `add map ${TABLE} no-endpoint-nodeports { ${portType} }`,
  `add map ${TABLE} firewall-ips { ${frontendType} }`,
];

const commonChains = {
  'service-endpoints-check': [`${frontend} vmap @no-endpoint-services`],
  'nodeport-endpoints-check': ['ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports'],
  'firewall-check': [`${frontend} vmap @firewall-ips`],
  'cluster-ips-check': ['ip daddr @cluster-ips reject'],
  masquerading: [
    `meta mark & ${MARK} == 0 return`,
    `meta mark set meta mark ^ ${MARK}`,
    'masquerade fully-random',
  ],
  'reject-chain': ['reject'],
};

const dispatch = [
  `${frontend} vmap @service-ips`,
  'fib daddr type local ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports',
];

function* elements(service: PlainService): Generator<string> {
  const { clusterIp } = service;
  yield `add element ${TABLE} cluster-ips { ${clusterIp} }`;
  const key = `${clusterIp} . tcp . ${SERVICE_PORT}`;
  yield `add element ${TABLE} service-ips { ${key} : goto ${chainName('service', service)} }`;
}

/** Since 1.36: a chain with one rule and one anonymous map for each service. */
export const nft136: Layout = {
  *load(services) {
    yield* baseChains({
      'filter-prerouting-pre-dnat': 'filter hook prerouting priority -110',
      'filter-output-pre-dnat': 'filter hook output priority -110',
      'filter-input': 'filter hook input priority 0',
      'filter-forward': 'filter hook forward priority 0',
      'filter-output': 'filter hook output priority 0',
      'nat-prerouting': 'nat hook prerouting priority -100',
      'nat-output': 'nat hook output priority -100',
      'nat-postrouting': 'nat hook postrouting priority 100',
    });
    yield* containers;
    yield `add set ${TABLE} hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }`;
    const fromOutside = `ip daddr @cluster-ips ip saddr != ${POD_NETWORK} meta mark set meta mark or ${MARK}`;
    yield* plainChains({ ...commonChains, services: [fromOutside, ...dispatch] });
    const toServices = ['ct state new jump service-endpoints-check', 'ct state new jump cluster-ips-check'];
    for (const [chain, rules] of Object.entries({
      'filter-prerouting-pre-dnat': ['ct state new jump firewall-check'],
      'filter-output-pre-dnat': ['ct state new jump firewall-check'],
      'filter-input': ['ct state new jump nodeport-endpoints-check', toServices[0]],
      'filter-forward': toServices,
      'filter-output': toServices,
      'nat-prerouting': ['jump services'],
      'nat-output': ['jump services'],
      'nat-postrouting': ['jump masquerading'],
    }))
      for (const text of rules) yield `add rule ${TABLE} ${chain} ${text}`;
    const hairpin = 'ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections';
    yield `add rule ${TABLE} masquerading ct status dnat ${hairpin} masquerade fully-random`;
    for (const service of services) {
      yield* serviceChain136(service);
      yield* elements(service);
    }
  },
  *change(_before, after) {
    yield* serviceChain136(after);
  },
};

function* serviceChain136(service: PlainService): Generator<string> {
  const name = chainName('service', service);
  const { endpoints } = service;
  const list = endpoints.map((ip, index) => `${index} : ${ip} . ${TARGET_PORT}`).join(', ');
  yield `add chain ${TABLE} ${name}`;
  yield `flush chain ${TABLE} ${name}`;
  yield `add rule ${TABLE} ${name} meta l4proto tcp dnat ip addr . port to numgen random mod ${endpoints.length} map { ${list} }`;
}

/** As of 1.30: a chain for each endpoint beside that of its service. */
export const nft130: Layout = {
  *load(services) {
    yield* baseChains({
      'filter-prerouting': 'filter hook prerouting priority -110',
      'filter-input': 'filter hook input priority -110',
      'filter-forward': 'filter hook forward priority -110',
      'filter-output': 'filter hook output priority -110',
      'filter-output-post-dnat': 'filter hook output priority -90',
      'nat-prerouting': 'nat hook prerouting priority -100',
      'nat-output': 'nat hook output priority -100',
      'nat-postrouting': 'nat hook postrouting priority 100',
    });
    yield* containers;
    yield* plainChains({
      ...commonChains,
      'mark-for-masquerade': [`meta mark set meta mark or ${MARK}`],
      services: dispatch,
    });
    for (const [chain, target] of Object.entries({
      'filter-prerouting': 'ct state new jump firewall-check',
      'filter-input': 'ct state new jump nodeport-endpoints-check',
      'filter-forward': 'ct state new jump service-endpoints-check',
      'filter-output': 'ct state new jump service-endpoints-check',
      'filter-output-post-dnat': 'ct state new jump cluster-ips-check',
      'nat-prerouting': 'jump services',
      'nat-output': 'jump services',
      'nat-postrouting': 'jump masquerading',
    }))
      yield `add rule ${TABLE} ${chain} ${target}`;
    for (const service of services) {
      yield* serviceChain130(service);
      yield* elements(service);
    }
  },
  *change(before, after) {
    yield* serviceChain130(after);
    const gone = before.endpoints.filter((ip) => !after.endpoints.includes(ip));
    for (const ip of gone) yield `flush chain ${TABLE} ${endpointChain(before, ip)}`;
    for (const ip of gone) yield `delete chain ${TABLE} ${endpointChain(before, ip)}`;
  },
};

function endpointChain(service: PlainService, ip: string): string {
  return `${chainName('endpoint', service)}__${ip}/${TARGET_PORT}`;
}

function* serviceChain130(service: PlainService): Generator<string> {
  const name = chainName('service', service);
  const { endpoints, clusterIp } = service;
  const mark = 'jump mark-for-masquerade';
  for (const ip of endpoints) {
    const chain = endpointChain(service, ip);
    yield `add chain ${TABLE} ${chain}`;
    yield `flush chain ${TABLE} ${chain}`;
    yield `add rule ${TABLE} ${chain} ip saddr ${ip} ${mark}`;
    yield `add rule ${TABLE} ${chain} meta l4proto tcp dnat to ${ip}:${TARGET_PORT}`;
  }
  yield `add chain ${TABLE} ${name}`;
  yield `flush chain ${TABLE} ${name}`;
  yield `add rule ${TABLE} ${name} ip daddr ${clusterIp} tcp dport ${SERVICE_PORT} ip saddr != ${POD_NETWORK} ${mark}`;
  const list = endpoints.map((ip, index) => `${index} : goto ${endpointChain(service, ip)}`).join(', ');
  yield `add rule ${TABLE} ${name} numgen random mod ${endpoints.length} vmap { ${list} }`;
}
