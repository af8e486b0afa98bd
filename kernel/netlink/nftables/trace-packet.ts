import { type Ip, ipFromBytes } from '../../../core/address.ts';

/** Addresses and ports of one packet. Ports of TCP, UDP and SCTP only. */
export interface PacketTuple {
  readonly source: Ip;
  readonly destination: Ip;
  /** IPPROTO_* */
  readonly protocol: number;
  readonly sourcePort: number;
  readonly port: number;
}

/** From the bytes of the network and the transport header; undefined for what is neither IPv4 nor IPv6. */
export function readTuple(
  network: Uint8Array | undefined,
  transport: Uint8Array | undefined,
): PacketTuple | undefined {
  if (network === undefined) return undefined;
  const version = (network[0] ?? 0) >>> 4;
  const ports = { sourcePort: u16(transport, 0), port: u16(transport, 2) };
  if (version === 4 && network.length >= 20) {
    const [source, destination] = [ipAt(network, 12, 4), ipAt(network, 16, 4)];
    return { source, destination, protocol: network[9] ?? 0, ...ports };
  }
  if (version === 6 && network.length >= 40) {
    const [source, destination] = [ipAt(network, 8, 16), ipAt(network, 24, 16)];
    return { source, destination, protocol: network[6] ?? 0, ...ports };
  }
  return undefined;
}

function ipAt(bytes: Uint8Array, at: number, length: number): Ip {
  return ipFromBytes(bytes.subarray(at, at + length));
}

function u16(bytes: Uint8Array | undefined, at: number): number {
  return ((bytes?.[at] ?? 0) << 8) | (bytes?.[at + 1] ?? 0);
}
