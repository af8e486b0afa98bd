import { cidrContains, familyOf } from '../core/address.ts';
import { podDetector } from './nftables/node-elements.ts';
import type { ProxyPolicy } from './policy.ts';
import type { TraceFacts, TracePacket } from './trace.ts';

/** Whom the rules take a client for. An address that is a pod's by its network counts as one, even if it is the node's. */
export interface TracedSource {
  readonly class: 'pod' | 'node' | 'outside';
  readonly reason: string;
  /** False: nothing in the configuration tells pods of this family from others. */
  readonly isDetected: boolean;
}

export function classifySource(
  packet: TracePacket,
  { detectLocal }: ProxyPolicy,
  { localIps }: TraceFacts,
): TracedSource {
  const { source } = packet;
  const isDetected = podDetector(familyOf(source), detectLocal) !== 'nothing';
  const pod = podReason(packet, detectLocal);
  const isNode = localIps.has(source) || isLoopback(source);
  if (pod !== undefined) {
    const also = isNode ? ', though it is this node’s own' : '';
    return { class: 'pod', reason: pod + also, isDetected };
  }
  if (isNode) return { class: 'node', reason: 'an address of this node', isDetected };
  const reason = isDetected ? 'neither a pod’s nor this node’s' : 'nothing tells pods from others';
  return { class: 'outside', reason, isDetected };
}

/** Why the source is a pod of this cluster; undefined: it is none. */
function podReason(
  { source, interfaceName }: TracePacket,
  detect: ProxyPolicy['detectLocal'],
): string | undefined {
  switch (detect.mode) {
    case 'none':
      return undefined;
    case 'cidrs': {
      const network = detect.cidrs.find((cidr) => cidrContains(cidr, source));
      return network && `in the pods’ network ${network}`;
    }
    case 'bridge':
      return interfaceName === detect.name ? `comes in by ${interfaceName}` : undefined;
    case 'interfacePrefix':
      return interfaceName?.startsWith(detect.prefix) ? `comes in by ${interfaceName}` : undefined;
  }
}

/** Of either family. */
export function isLoopback(ip: TracePacket['source']): boolean {
  return ip.startsWith('127.') || (ip as string) === '::1';
}
