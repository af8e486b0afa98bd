import { type Family, families } from '../core/address.ts';
import type { JsonObject } from './json-object.ts';

/** MTU of the underlay, where it is not the interface's own. */
interface TunnelConfig {
  readonly mtuBytes?: number;
}

export interface VxlanConfig extends TunnelConfig {
  readonly type: 'vxlan';
  readonly vni: number;
  /** UDP port. */
  readonly port: number;
  readonly learning: boolean;
  /** Peers in the same layer-2 network are reached without the tunnel. */
  readonly directRouting: boolean;
  /** Group based policy: the packet's mark travels in the VXLAN header. */
  readonly gbp: boolean;
  /** Of the tunnel's device. `auto`: off where this kernel is known to spoil checksums. Not a key of flannel's. */
  readonly checksumOffload: 'auto' | 'on' | 'off';
}

export interface HostGwConfig {
  readonly type: 'host-gw';
}

export interface UdpConfig extends TunnelConfig {
  readonly type: 'udp';
  readonly port: number;
}

export interface IpipConfig extends TunnelConfig {
  readonly type: 'ipip';
  readonly directRouting: boolean;
}

export interface WireguardConfig extends TunnelConfig {
  readonly type: 'wireguard';
  /** `separate`: a device for each family; else one device for both, whose outer packets are of one family. */
  readonly mode: 'separate' | 'auto' | 'ipv4' | 'ipv6';
  /** UDP ports; of one device for both families, the IPv4 port. */
  readonly ports: { readonly [F in Family]: number };
  /** Preshared key, base64 of 32 bytes. */
  readonly psk?: string;
  /** 0: none. */
  readonly keepaliveSeconds: number;
}

/** Nodes get subnets and pods get addresses; somebody else connects the nodes. */
export interface AllocConfig {
  readonly type: 'alloc';
}

export type BackendConfig =
  | VxlanConfig
  | HostGwConfig
  | UdpConfig
  | IpipConfig
  | WireguardConfig
  | AllocConfig;

/** flannel's own values for what a configuration does not say. */
export const backendDefaults = Object.freeze({
  type: 'udp',
  vni: 1,
  /** The Linux kernel's own default; IANA's is 4789. */
  vxlanPort: 8472,
  learning: false,
  directRouting: false,
  gbp: false,
  udpPort: 8285,
  wireguardPorts: Object.freeze({ 4: 51820, 6: 51821 }),
  keepaliveSeconds: 0,
});

/** What IPv4 and IPv6 demand of every link (RFC 791, RFC 8200), within the tunnel. */
const leastMtuBytes = Object.freeze({ 4: 68, 6: 1280 });
/** Headers around a packet where the outer packet is of this family. */
const overheadBytes = Object.freeze({
  vxlan: { 4: 50, 6: 70 },
  udp: { 4: 28, 6: 48 },
  ipip: { 4: 20, 6: 40 },
  wireguard: { 4: 80, 6: 80 },
});

/** Reads `Backend` for a cluster with these families; undefined when its type is none of ours. */
export function readBackendConfig(backend: JsonObject, inUse: readonly Family[]): BackendConfig | undefined {
  const given = backend.string('Type') ?? backendDefaults.type;
  switch (given.toLowerCase()) {
    case 'vxlan':
      return readVxlan(backend, inUse);
    case 'host-gw':
      return { type: 'host-gw' };
    case 'udp':
      return {
        type: 'udp',
        port: backend.integer('Port', 0, 65535) || backendDefaults.udpPort,
        ...readMtu(backend, overheadBytes.udp, inUse),
      };
    case 'ipip':
      return {
        type: 'ipip',
        directRouting: backend.boolean('DirectRouting', backendDefaults.directRouting),
        ...readMtu(backend, overheadBytes.ipip, inUse),
      };
    case 'wireguard':
      return readWireguard(backend, inUse);
    case 'alloc':
      return { type: 'alloc' };
    default:
      return backend.problem(
        'Type',
        `${JSON.stringify(given)} is not supported; use one of vxlan, host-gw, udp, ipip, wireguard, alloc`,
      );
  }
}

function readVxlan(backend: JsonObject, inUse: readonly Family[]): VxlanConfig {
  backend.skip('MacPrefix', 'Name'); // on Windows
  return {
    type: 'vxlan',
    vni: backend.integer('VNI', 1, 2 ** 24 - 1) ?? backendDefaults.vni,
    port: backend.integer('Port', 0, 65535) || backendDefaults.vxlanPort,
    ...readMtu(backend, overheadBytes.vxlan, inUse),
    gbp: backend.boolean('GBP', backendDefaults.gbp),
    learning: backend.boolean('Learning', backendDefaults.learning),
    directRouting: backend.boolean('DirectRouting', backendDefaults.directRouting),
    checksumOffload: backend.word('ChecksumOffload', ['auto', 'on', 'off']),
  };
}

function readWireguard(backend: JsonObject, inUse: readonly Family[]): WireguardConfig {
  const [v4, v6] = [backend.integer('ListenPort', 0, 65535), backend.integer('ListenPortV6', 0, 65535)];
  const mode = backend.word('Mode', ['separate', 'auto', 'ipv4', 'ipv6']);
  const { wireguardPorts: usual } = backendDefaults;
  const ports = { 4: v4 || usual[4], 6: v6 || usual[6] };
  if (mode === 'separate' && inUse.length > 1 && ports[4] === ports[6]) {
    backend.problem('ListenPortV6', `${ports[6]} is the port of IPv4, too, and each family has a device`);
  }
  const psk = backend.string('PSK') || undefined;
  if (psk !== undefined && !isWireguardKey(psk)) {
    backend.problem('PSK', 'is not base64 of 32 bytes'); // a secret: not to be told
  }
  return {
    type: 'wireguard',
    mode,
    ports,
    ...(psk === undefined ? {} : { psk }),
    keepaliveSeconds:
      backend.integer('PersistentKeepaliveInterval', 0, 65535) ?? backendDefaults.keepaliveSeconds,
    ...readMtu(backend, overheadBytes.wireguard, inUse),
  };
}

function isWireguardKey(text: string): boolean {
  const bytes = Buffer.from(text, 'base64');
  return bytes.length === 32 && bytes.toString('base64') === text;
}

/** 0 means the interface's own, as in flannel. */
function readMtu(
  backend: JsonObject,
  overhead: { readonly [F in Family]: number },
  inUse: readonly Family[],
): TunnelConfig {
  const mtuBytes = backend.integer('MTU', 0, 65535) || undefined;
  if (mtuBytes === undefined) return {};
  const least = Math.max(
    ...families.filter((f) => inUse.includes(f)).map((f) => leastMtuBytes[f] + overhead[f]),
  );
  if (mtuBytes < least) backend.problem('MTU', `${mtuBytes} is less than ${least}`);
  return { mtuBytes };
}
