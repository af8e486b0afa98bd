import { type Family, families, familyOf, type Ip } from '../core/address.ts';
import { accept, drop, inSet, match, notInSet, rule } from '../kernel/netlink/nftables/expressions.ts';
import {
  ip6Daddr,
  ip6Saddr,
  ipDaddr,
  ipSaddr,
  metaL4proto,
  metaNfproto,
  thDport,
} from '../kernel/netlink/nftables/fields.ts';
import { nftKey } from '../kernel/netlink/nftables/keys.ts';
import {
  hookPriorities,
  type NftChain,
  type NftElement,
  type NftSet,
} from '../kernel/netlink/nftables/spec.ts';
import type { Guard } from './backend/backend.ts';

/*
 * The life of one encapsulated packet that arrives here: before anybody takes it, its sender is looked up among the
 * peers, and only of others the port, or the protocol and where it goes. A stranger's goes no further: whoever can send
 * to a VXLAN port is else in the same layer-2 network as all pods. What goes to another address of this node than the one
 * that our IP in IP tunnel begins at, as a load balancer's does, is not for our device, and no matter of ours.
 *
 * The chain knows no address and no port, as those of the masquerade: they are elements of sets. It only drops, so
 * that an operator's own rules decide about all the rest. It runs before them: a flood costs one look-up each.
 */

const IPPROTO_UDP = 17;
const NFPROTO = { 4: 2, 6: 10 } as const;
const sources = { 4: ipSaddr, 6: ip6Saddr } as const;
const destinations = { 4: ipDaddr, 6: ip6Daddr } as const;
const carrierSet = 'tunnelcarriers';
const portSet = 'tunnelports';
const protocolSet = (family: 4 | 6) => `tunnelprotocols${family}`;
const endSet = (family: 4 | 6) => `tunnelends${family}`;
const peerSet = (family: 4 | 6) => `peers${family}`;

export const guardChain: NftChain = {
  name: 'tunnels',
  hook: { type: 'filter', hook: 'input', priority: hookPriorities.raw },
  rules: [
    // First what is most: what can be no tunnel, above all TCP to this node, is through with one look-up, and a node's
    // packets with a second. Other chains have their say all the same.
    rule('no tunnels', notInSet([metaL4proto], carrierSet), accept()),
    ...families.map((family) =>
      rule('from nodes of the cluster', only(family), inSet([sources[family]], peerSet(family)), accept()),
    ),
    rule(
      'tunnels of strangers',
      [...match(metaL4proto, '==', IPPROTO_UDP), ...inSet([thDport], portSet)],
      drop(),
    ),
    ...families.map((family) =>
      rule(
        'tunnels of strangers',
        inSet([metaL4proto], protocolSet(family)),
        // Here, where nft puts it when it loads its own list again: it does not list what the address implies.
        only(family),
        inSet([destinations[family]], endSet(family)),
        drop(),
      ),
    ),
  ],
};

function only(family: Family) {
  return match(metaNfproto, '==', NFPROTO[family]);
}

export const guardSets: readonly NftSet[] = [
  { name: carrierSet, key: [metaL4proto], comment: 'what all tunnels come in' },
  { name: portSet, key: [thDport], comment: 'UDP ports of tunnels' },
  ...families.flatMap((family): NftSet[] => [
    { name: protocolSet(family), key: [metaL4proto], comment: 'protocols of tunnels' },
    { name: endSet(family), key: [destinations[family]], comment: 'where tunnels of these end' },
    { name: peerSet(family), key: [sources[family]], comment: 'nodes of the cluster' },
  ]),
];

/** The elements of the sets. Without a port or protocol nothing is dropped. */
export function guardRows(guard: Guard | undefined): NftElement[] {
  if (guard === undefined) return [];
  const { udpPort, protocols = {}, ends = {}, senders } = guard;
  const rows: NftElement[] = [];
  const carriers = new Set([...(udpPort === undefined ? [] : [IPPROTO_UDP]), ...Object.values(protocols)]);
  for (const carrier of carriers) rows.push({ set: carrierSet, key: nftKey([metaL4proto], carrier) });
  if (udpPort !== undefined) rows.push({ set: portSet, key: nftKey([thDport], udpPort) });
  for (const family of families) {
    const protocol = protocols[family];
    if (protocol === undefined) continue;
    rows.push({ set: protocolSet(family), key: nftKey([metaL4proto], protocol) });
    const end = ends[family];
    if (end !== undefined) rows.push({ set: endSet(family), key: nftKey([destinations[family]], end) });
  }
  for (const sender of senders) rows.push(senderRow(sender));
  return rows;
}

/** A cluster's nodes are a limited number, and each plan has nearly the same. */
const knownSendersMax = 20_000;
const knownSenders = new Map<Ip, NftElement>();

function senderRow(ip: Ip): NftElement {
  const known = knownSenders.get(ip);
  if (known !== undefined) return known;
  const family = familyOf(ip);
  const row = { set: peerSet(family), key: nftKey([sources[family]], ip) };
  if (knownSenders.size === knownSendersMax) knownSenders.clear();
  knownSenders.set(ip, row);
  return row;
}
