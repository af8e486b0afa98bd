import { createHash } from 'node:crypto';
import { familyOf } from '../../core/address.ts';
import type { Protocol } from '../protocol.ts';
import type { Endpoint, ServicePortView } from '../view.ts';

/*
 * Chains have the names that kube-proxy gives them (pkg/proxy/iptables/proxier.go, v1.36), so that its chains are
 * taken over and other programs that look for them find them. The end is a hash: whatever a Service is called, its
 * chains are letters and digits.
 */

const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const HASH_BYTES = 10;

/** The first 16 digits in base 32 of the SHA-256 of `text`. */
function hashOf(text: string): string {
  let bits = BigInt(
    `0x${createHash('sha256')
      .update(text)
      .digest('hex')
      .slice(0, 2 * HASH_BYTES)}`,
  );
  let digits = '';
  for (let at = 0; at < (HASH_BYTES * 8) / 5; at += 1) {
    digits = BASE32[Number(bits & 31n)] + digits;
    bits >>= 5n;
  }
  return digits;
}

/** The chains of one service port. Which of them are there depends on its policies. */
export interface PortChains {
  /** Draws one of all endpoints. */
  readonly cluster: string;
  /** Draws one of the endpoints on this node. */
  readonly local: string;
  /** Connections from outside: masquerading, short cuts. */
  readonly external: string;
  /** Who may connect to load balancer addresses. */
  readonly firewall: string;
}

export function portChains(port: Pick<ServicePortView, 'name' | 'protocol'>): PortChains {
  const hash = hashOf(labelOf(port) + port.protocol);
  return {
    cluster: `KUBE-SVC-${hash}`,
    local: `KUBE-SVL-${hash}`,
    external: `KUBE-EXT-${hash}`,
    firewall: `KUBE-FW-${hash}`,
  };
}

/** The chain of one endpoint of one service port; also the name of its list of clients under session affinity. */
export function endpointChain(
  { name, protocol }: { readonly name: string; readonly protocol: Protocol },
  endpoint: Pick<Endpoint, 'ip' | 'port'>,
): string {
  return `KUBE-SEP-${hashOf(labelOf({ name }) + protocol + endpointText(endpoint))}`;
}

/** `namespace/name:portName`, without the colon when the port has no name. */
export function labelOf({ name }: Pick<ServicePortView, 'name'>): string {
  return name.endsWith(':') ? name.slice(0, -1) : name;
}

/** `10.0.0.1:80` or `[fd00::1]:80`. */
export function endpointText({ ip, port }: Pick<Endpoint, 'ip' | 'port'>): string {
  return familyOf(ip) === 6 ? `[${ip}]:${port}` : `${ip}:${port}`;
}

/** Whether a chain of table nat was made for one service port or endpoint (KUBE-XLB: by kube-proxy before 1.24). */
export function isPortChain(name: string): boolean {
  return /^KUBE-(SVC|SVL|EXT|FW|SEP|XLB)-[A-Z2-7]{16}$/.test(name);
}
