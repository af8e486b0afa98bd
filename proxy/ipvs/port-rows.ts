import { type Cidr, type Family, type Ip, ipToBytes } from '../../core/address.ts';
import {
  type DestinationRow,
  destinationKey,
  type ServerAddress,
  serverKey,
  type VirtualServerRow,
} from '../../kernel/ipvs.ts';
import { hexOf, nftRange } from '../../kernel/netlink/nftables/keys.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { frontendElement, hairpinElement } from '../nftables/elements.ts';
import { outermost } from '../nftables/source-groups.ts';
import type { Endpoint, Frontend, ServicePortView } from '../view.ts';
import type { FrontendSet } from './layout.ts';
import { type SchedulerChoice, schedulingOf } from './schedulers.ts';

/** Rows by table; `addresses` are those that our device is to hold. */
export interface Rows {
  readonly addresses: Map<string, Ip>;
  readonly servers: Map<string, VirtualServerRow>;
  readonly destinations: Map<string, DestinationRow>;
  readonly elements: Record<Family, Map<string, NftElement>>;
}

export function noRows(): Rows {
  return {
    addresses: new Map(),
    servers: new Map(),
    destinations: new Map(),
    elements: { 4: new Map(), 6: new Map() },
  };
}

/** What the rows of a port depend on besides its view. */
export interface PortContext extends SchedulerChoice {
  /** Addresses that node ports are open on. */
  readonly nodePortIps: Record<Family, readonly Ip[]>;
  /** Addresses on other devices than ours: packets to them come here without our doing, and are others' as well. */
  readonly foreignIps: ReadonlySet<Ip>;
}

/** Adds what one service port stands for. */
export function addPort(rows: Rows, port: ServicePortView, context: PortContext): void {
  const elements = rows.elements[port.family];
  const add = (element: NftElement) => void elements.set(nftElementKey(element), element);
  for (const frontend of port.frontends) {
    const endpoints = endpointsOf(port, frontend);
    for (const server of addressesOf(port, frontend, context))
      addServer(rows, port, server, endpoints, context);
    if (frontend.kind !== 'nodePort' && !context.foreignIps.has(frontend.ip)) {
      rows.addresses.set(frontend.ip, frontend.ip);
      add(heldElement(frontend.ip));
    }
    for (const element of frontendElements(port, frontend, endpoints)) add(element);
  }
  for (const { ip, local } of [...port.clusterEndpoints, ...port.localEndpoints])
    if (local) add(hairpinElement(ip));
}

/**
 * A virtual server is the same for all clients. So where connections from outside are to stay on this node, those of
 * pods and of the node itself do as well; and where nobody is there for them, others' are dropped before they come
 * to the server.
 */
function endpointsOf(port: ServicePortView, { kind }: Frontend): readonly Endpoint[] {
  const { clusterEndpoints, localEndpoints, internalPolicy, externalPolicy } = port;
  if (kind === 'clusterIP') return internalPolicy === 'Local' ? localEndpoints : clusterEndpoints;
  return externalPolicy === 'Local' && localEndpoints.length > 0 ? localEndpoints : clusterEndpoints;
}

function addressesOf(
  { protocol, family }: ServicePortView,
  frontend: Frontend,
  { nodePortIps }: PortContext,
): ServerAddress[] {
  const ips = frontend.kind === 'nodePort' ? nodePortIps[family] : [frontend.ip];
  return ips.map((ip) => ({ protocol, ip, port: frontend.port }));
}

function addServer(
  { servers, destinations }: Rows,
  port: ServicePortView,
  server: ServerAddress,
  endpoints: readonly Endpoint[],
  context: PortContext,
): void {
  if (endpoints.length === 0) return;
  const scheduling = schedulingOf(port, endpoints, context);
  servers.set(serverKey(server), { ...server, ...scheduling, persistenceSeconds: port.affinitySeconds });
  for (const { ip, port: number, weight } of endpoints) {
    const row = { server, ip, port: number, weight };
    destinations.set(destinationKey(row), row);
  }
}

/** How connections to a frontend are marked, refused, dropped, and who may make them. */
function frontendElements(
  port: ServicePortView,
  frontend: Frontend,
  endpoints: readonly Endpoint[],
): NftElement[] {
  const { key } = frontendElement('refused', frontend, port.protocol);
  const element = (set: FrontendSet): NftElement => {
    return { set: frontend.kind === 'nodePort' ? `${set}-nodeports` : set, key };
  };
  const isGuarded = frontend.kind === 'loadBalancerIP' && port.sourceRanges !== undefined;
  return [
    ...(endpoints.length > 0 ? [element(markOf(port, frontend))] : []),
    element(fateOf(port, frontend, endpoints)),
    ...(isGuarded ? guardElements(key, port.sourceRanges ?? []) : []),
  ];
}

function markOf({ externalPolicy }: ServicePortView, { kind }: Frontend): FrontendSet {
  if (kind === 'clusterIP') return 'cluster-ip';
  return externalPolicy === 'Local' ? 'external-local' : 'external';
}

/** Dropped, not refused, where somebody is there but for nobody that may connect here. */
function fateOf(port: ServicePortView, { kind }: Frontend, endpoints: readonly Endpoint[]): FrontendSet {
  if (endpoints.length === 0) return port.hasAnyEndpoints ? 'dropped' : 'refused';
  const isElsewhere = port.externalPolicy === 'Local' && port.localEndpoints.length === 0;
  return kind !== 'clusterIP' && isElsewhere ? 'inside' : 'served';
}

function guardElements(key: string, ranges: readonly Cidr[]): NftElement[] {
  const range = (cidr: Cidr): NftElement => {
    const its = nftRange(cidr);
    return { set: 'source-ranges', key: key + its.key, keyEnd: key + its.keyEnd };
  };
  return [{ set: 'guarded-services', key }, ...outermost(ranges).map(range)];
}

/** New connections to a server that nobody wants any more are refused: IPVS alone would not say so. */
export function refusedElement({ protocol, ip, port }: ServerAddress, held: boolean): NftElement {
  if (held) return heldElement(ip);
  return {
    set: 'refused-nodeports',
    key: frontendElement('refused', { kind: 'nodePort', port }, protocol).key,
  };
}

/** An address on our device: ports of it that no service has are refused. */
function heldElement(ip: Ip): NftElement {
  return { set: 'addresses', key: hexOf(ipToBytes(ip)) };
}
