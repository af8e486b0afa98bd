import type { Cidr, Family } from '../../core/address.ts';
import * as st from '../../kernel/netlink/nftables/expressions.ts';
import * as fields from '../../kernel/netlink/nftables/fields.ts';
import { hexU32, nftKey, nftRange } from '../../kernel/netlink/nftables/keys.ts';
import {
  hookPriorities,
  type NftChain,
  type NftElement,
  type NftLayout,
  type NftSet,
  nftElementKey,
} from '../../kernel/netlink/nftables/spec.ts';

export interface Example {
  /** Of its golden files. */
  readonly name: string;
  readonly layout: NftLayout;
  readonly rows: ReadonlyMap<string, NftElement>;
}

function byKey(rows: readonly NftElement[]): Map<string, NftElement> {
  return new Map(rows.map((row) => [nftElementKey(row), row]));
}

const { rule } = st;
const TCP = 6;
const UDP = 17;
const SCTP = 132;
const { metaL4proto, metaMark, metaPriority, thDport, thSport } = fields;

function fieldsOf(family: Family) {
  return family === 4
    ? { source: fields.ipSaddr, target: fields.ipDaddr, type: 'ipv4_addr' as const }
    : { source: fields.ip6Saddr, target: fields.ip6Daddr, type: 'ipv6_addr' as const };
}

/** `10.0.0.N` or `fd00::N`. */
function address(family: Family, host: number): string {
  return family === 4 ? `10.0.0.${host}` : `fd00::${host}`;
}

/** Every statement that there is a builder for, and every kind of set. */
export function everyStatement(family: Family): Example {
  const table = 'fairlead-statements';
  return {
    name: family === 4 ? 'statements-ip' : 'statements-ip6',
    layout: { family: family === 4 ? 'ip' : 'ip6', table, chains: chains(family), sets: sets(family) },
    rows: byKey(rows(family)),
  };
}

function chains(family: Family): NftChain[] {
  const { source, target } = fieldsOf(family);
  const at = (host: number) => address(family, host);
  const [wide, narrow, single] = (
    family === 4
      ? ['10.0.0.0/9', '10.244.0.0/16', '10.244.0.1/32']
      : ['fd00:1::/33', 'fd00:1::/64', 'fd00:1::1/128']
  ) as [Cidr, Cidr, Cidr];
  const frontend = [target, metaL4proto, thDport];
  const client = [fields.masked(metaPriority, 0xffff8000), source];
  return [
    {
      name: 'prerouting',
      hook: { type: 'nat', hook: 'prerouting', priority: hookPriorities.dstnat - 10 },
      rules: [
        rule(
          'bits',
          st.matchBits(fields.ctState, fields.ctStateBits.new),
          st.matchBits(fields.ctStatus, fields.ctStatusBits.dnat),
          st.match(fields.ctDirection, '==', 0),
          st.counter(),
          st.jump('services'),
        ),
        rule(
          'node port',
          st.match(fields.fibDaddrType, '==', fields.fibTypes.local),
          st.match(fields.fibSaddrType, '!=', fields.fibTypes.local),
          st.match(metaL4proto, '==', TCP),
          st.match(thDport, '==', 80),
          st.goto('services'),
        ),
        rule(
          'ranges of ports',
          st.match(metaL4proto, '==', UDP),
          st.matchRange(thDport, 30000, 32767),
          st.matchRange(thSport, 1, 1023, '!='),
          st.accept(),
        ),
        rule('to an address and port', st.match(metaL4proto, '==', TCP), st.dnat(ip(at(9)), 8080)),
        rule('to an address', st.dnat(ip(at(9)))),
        rule('back', st.returns()),
      ],
    },
    {
      name: 'forward',
      hook: { type: 'filter', hook: 'forward', priority: hookPriorities.filter, policy: 'drop' },
      rules: [
        rule(
          'interfaces',
          st.match(fields.metaIif, '!=', 1),
          st.match(fields.metaIifname, '==', 'eth0'),
          st.match(fields.metaOifname, '!=', 'cni*'),
          st.drop(),
        ),
        rule(
          'networks',
          st.matchCidr(source, '==', wide),
          st.matchCidr(target, '!=', narrow),
          st.matchCidr(target, '!=', single),
          st.reject(family),
        ),
        rule('reset', st.match(metaL4proto, '==', TCP), st.rejectTcpReset()),
        rule(
          'sets',
          st.inSet([source], 'networks'),
          st.notInSet([source], 'typed-networks'),
          st.inSet([source, target], 'pairs'),
          st.inSet([source, target, thDport], 'boxes'),
          st.drop(),
        ),
        rule('verdict map', st.vmap([source, metaL4proto, thDport], 'verdicts')),
        rule(
          'one bit of the mark',
          st.match(fields.masked(metaMark, 0x4000), '==', 0x4000),
          st.setMeta('mark', fields.flipped(metaMark, 0x4000)),
        ),
        rule(
          'marks',
          st.setMeta('mark', 0x4000),
          st.setMeta('mark', fields.withBits(metaMark, 0x4000)),
          st.setMeta('mark', fields.masked(metaMark, 0xffffbfff)),
          st.setMeta('mark', fields.ctMark),
          st.setCtMark(metaMark),
          st.setCtMark(5),
          st.setMeta('mark', fields.numgenRandom(3)),
        ),
        rule(
          'priorities',
          st.setMeta('priority', 0x18003),
          st.match(fields.masked(metaPriority, 0xfff), '==', 3),
          st.match(metaPriority, '==', 0x18003),
          st.match(metaMark, '!=', 0),
          st.drop(),
        ),
        rule(
          'where the connection was made to',
          st.match(fields.ctTuple('original', family === 4 ? 'ip daddr' : 'ip6 daddr'), '==', at(3)),
          st.match(metaL4proto, '==', TCP),
          st.match(fields.ctTuple('original', 'proto-dst'), '==', 443),
          st.drop(),
        ),
      ],
    },
    {
      name: 'postrouting',
      hook: { type: 'nat', hook: 'postrouting', priority: hookPriorities.srcnat },
      rules: [
        rule('fully random', st.masquerade({ fullyRandom: true })),
        rule('plain', st.masquerade()),
        rule('random and persistent', st.masquerade({ random: true, persistent: true })),
        rule('from an address, fully random', st.snat(ip(at(1)), { fullyRandom: true })),
        rule('from an address', st.snat(ip(at(1)))),
      ],
    },
    {
      name: 'services',
      rules: [
        rule('find the service', st.setMetaFromMap('priority', frontend, 'services')),
        rule('go to its slots', st.vmap([fields.masked(metaPriority, 0xfff)], 'slots')),
      ],
    },
    {
      name: 'slots-3',
      rules: [
        rule(
          'one of three',
          st.matchAny(metaL4proto, [TCP, UDP, SCTP]),
          st.dnatFromMap(
            family,
            [fields.masked(metaPriority, 0xffff8000), fields.numgenRandom(3)],
            'endpoints',
          ),
        ),
      ],
    },
    {
      name: 'affinity',
      rules: [
        rule('where it was', st.setMetaFromMap('mark', client, 'affinity')),
        rule('remember', st.updateSet('affinity', client, { data: metaMark })),
        rule('remember no more', st.updateSet('affinity', client, { data: metaMark, op: 'delete' })),
        rule('by a hash of the client', st.setMeta('mark', fields.jhash(source, 1021, 0x5eed))),
        rule('for three hours', st.updateSet('seen', [source], { timeoutMs: 10_800_000 })),
        rule('at first sight', st.updateSet('seen', [source], { op: 'add' })),
      ],
    },
  ];
}

function ip(text: string) {
  return text as Parameters<typeof st.dnat>[0];
}

function sets(family: Family): NftSet[] {
  const { source, target, type } = fieldsOf(family);
  return [
    { name: 'services', key: [target, metaL4proto, thDport], data: [metaPriority], size: 1024 },
    { name: 'nodeports', key: [metaL4proto, thDport], data: [metaPriority], size: 1024, comment: 'by port' },
    { name: 'slots', key: [metaPriority], data: 'verdict' },
    {
      name: 'endpoints',
      key: [metaPriority, fields.numgenRandom(65536)],
      data: [target, thDport],
      size: 1024,
    },
    { name: 'networks', key: [source], interval: true },
    { name: 'typed-networks', key: [type], interval: true },
    { name: 'marks', key: [source], data: [metaMark], interval: true },
    { name: 'pairs', key: [source, target] },
    { name: 'boxes', key: [source, target, thDport], interval: true },
    { name: 'verdicts', key: [type, 'inet_proto', 'inet_service'], data: 'verdict' },
    { name: 'ports', key: ['inet_service'] },
    { name: 'protocols', key: [metaL4proto] },
    { name: 'names', key: ['ifname'], data: ['mark'] },
    {
      name: 'affinity',
      key: [metaPriority, source],
      data: [metaMark],
      size: 65536,
      dynamic: true,
      timeoutMs: 10_800_000,
    },
    { name: 'seen', key: [source], size: 65536, dynamic: true, timeoutMs: 10_000 },
  ];
}

function rows(family: Family): NftElement[] {
  const { source, target, type } = fieldsOf(family);
  const at = (host: number) => address(family, host);
  const frontend = [target, metaL4proto, thDport];
  const networks = (
    family === 4
      ? ['10.0.0.0/24', '10.0.1.0/24', '192.168.0.0/16', '255.0.0.0/8', '0.0.0.0/8']
      : ['fd00::/64', 'fd00:0:0:1::/64', 'ff00::/8', '::/16']
  ) as Cidr[];
  const [network] = networks.map(nftRange) as [{ key: string; keyEnd: string }];
  const port = (number: number) => `${nftKey(['inet_service'], number)}0000`;
  return [
    { set: 'services', key: nftKey(frontend, at(1), TCP, 80), data: hexU32(0x18003) },
    { set: 'slots', key: hexU32(3), data: { verdict: 'goto', chain: 'slots-3' } },
    {
      set: 'endpoints',
      key: nftKey([metaPriority, fields.numgenRandom(65536)], 0x18000, 2),
      data: nftKey([target, thDport], at(2), 8080),
    },
    ...networks.map((cidr) => ({ set: 'networks', ...nftRange(cidr) })),
    ...networks.map((cidr) => ({ set: 'typed-networks', ...nftRange(cidr) })),
    { set: 'marks', ...network, data: hexU32(7) },
    { set: 'pairs', key: nftKey([source, target], at(1), at(1)) },
    {
      set: 'boxes',
      key: network.key + network.key + port(1),
      keyEnd: network.keyEnd + network.keyEnd + port(1000),
    },
    {
      set: 'verdicts',
      key: nftKey([type, 'inet_proto', 'inet_service'], at(1), UDP, 53),
      data: { verdict: 'drop' },
    },
    {
      set: 'verdicts',
      key: nftKey([type, 'inet_proto', 'inet_service'], at(1), TCP, 53),
      data: { verdict: 'jump', chain: 'affinity' },
    },
    { set: 'ports', key: nftKey(['inet_service'], 80) },
    { set: 'protocols', key: nftKey(['inet_proto'], TCP) },
    { set: 'names', key: nftKey(['ifname'], 'eth0'), data: hexU32(1) },
  ];
}

/** A table for both families: rules name the family before they look at addresses. */
export function bothFamilies(): Example {
  const only = (family: Family) => st.match(fields.metaNfproto, '==', family === 4 ? 2 : 10);
  const masquerade = (family: Family) => {
    const { source, target } = fieldsOf(family);
    return rule(
      `masquerade IPv${family}`,
      only(family),
      st.inSet([source], `pods${family}`),
      st.notInSet([target], `pods${family}`),
      st.masquerade({ fullyRandom: true }),
    );
  };
  return {
    name: 'both-families',
    layout: {
      family: 'inet',
      table: 'fairlead-both',
      chains: [
        {
          name: 'postrouting',
          hook: { type: 'nat', hook: 'postrouting', priority: hookPriorities.srcnat },
          rules: [
            rule('done', st.match(fields.masked(metaMark, 0x4000), '==', 0x4000), st.returns()),
            masquerade(4),
            masquerade(6),
          ],
        },
        {
          name: 'output',
          hook: { type: 'route', hook: 'output', priority: hookPriorities.mangle },
          rules: [rule('own', st.match(fields.metaOif, '==', 1), st.accept())],
        },
      ],
      sets: [
        { name: 'pods4', key: [fields.ipDaddr], interval: true },
        { name: 'pods6', key: [fields.ip6Daddr], interval: true },
      ],
    },
    rows: byKey([
      { set: 'pods4', ...nftRange('10.244.0.0/16' as Cidr) },
      { set: 'pods6', ...nftRange('fd00:10:244::/56' as Cidr) },
    ]),
  };
}

export const examples: readonly Example[] = [everyStatement(4), everyStatement(6), bothFamilies()];
