import { families, ipOf } from '../../core/address.ts';
import type { RouteRow } from '../../kernel/route.ts';
import {
  type BackendConfig,
  type BackendFacts,
  type BackendKind,
  type BackendRows,
  noRows,
} from './backend.ts';
import { countReached, isAdjacent, type Peer, selectPeers } from './peers.ts';

/*
 * The life of one packet, from pod 10.244.1.5 here to pod 10.244.2.7 on the node 192.0.2.2:
 *
 *   pod        its default route leads over the bridge to this node's root namespace
 *   route      10.244.2.0/24 via 192.0.2.2 dev eth0: the packet leaves as it is, addressed to the peer's MAC
 *   peer       forwards it to its bridge
 *
 * One row a peer and nothing around the packet, so the pods have the interface's whole MTU. It works only where
 * every node is in one layer-2 network: a router in between would not know the pods' addresses.
 */

export const hostGw: BackendKind<BackendConfig & { type: 'host-gw' }> = {
  type: 'host-gw',
  parse: () => ({ type: 'host-gw' }),
  make: () => {
    const known = new WeakMap<Peer, RouteRow>();
    return {
      type: 'host-gw',
      data: () => ({}),
      mtuBytes: (underlay) => underlay.mtuBytes,
      plan: (facts) => planHostGw(facts, known),
    };
  },
};

/** `known`: a peer that has not changed has the same row in every plan. */
function planHostGw(facts: BackendFacts, known: WeakMap<Peer, RouteRow>): BackendRows {
  const { peers, problems } = selectPeers(facts);
  const { underlay } = facts;
  const routes: RouteRow[] = [];
  const reached: Peer[] = [];
  for (const family of families) {
    const address = underlay.addresses[family];
    const announced = underlay.publicIps[family];
    if (address === undefined || announced === undefined || ipOf(address) === announced) continue;
    problems.push(
      `this node: host-gw needs ${announced} to be an address of ${underlay.device}, which has ${address}`,
    );
  }
  for (const peer of peers) {
    if (!isAdjacent(underlay, peer)) {
      const own = underlay.addresses[peer.family];
      problems.push(`${peer.key}: ${peer.publicIp} is not in the network of ${own} on ${underlay.device}`);
      continue;
    }
    const before = known.get(peer);
    const { device } = underlay;
    const row =
      before?.device === device ? before : { destination: peer.subnet, gateway: peer.publicIp, device };
    known.set(peer, row);
    routes.push(row);
    reached.push(peer);
  }
  return { ...noRows, routes, problems: problems.sort(), peers: countReached(facts, reached) };
}
