import type { Cidr, Ip } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { isMissing, type KernelError } from './errors.ts';
import { LinkIndex } from './linkindex.ts';
import { decodeGeneric, encodeGeneric, readFamilyId } from './netlink/generic.ts';
import {
  decodeWireguardDevice,
  encodeWireguardDevice,
  joinWireguardDevices,
  WG_CMD_GET_DEVICE,
  WG_CMD_SET_DEVICE,
  WG_GENL_NAME,
  WG_GENL_VERSION,
  WGPEER_F_REMOVE_ME,
  WGPEER_F_REPLACE_ALLOWEDIPS,
  type WireguardDevice,
  type WireguardPeer,
} from './netlink/generic-wireguard.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { writeRows } from './write.ts';

/** A device's own part (no `peer`), or one peer of it. Keys are 32 bytes as base64. */
export type WireguardRow = WireguardDeviceRow | WireguardPeerRow;

export interface WireguardDeviceRow {
  readonly device: string;
  readonly privateKey: string;
  /** UDP. */
  readonly listenPort: number;
  readonly peer?: undefined;
}

export interface WireguardPeerRow {
  readonly device: string;
  /** Public key. */
  readonly peer: string;
  readonly presharedKey: string | undefined;
  readonly endpoint: { readonly ip: Ip; readonly port: number } | undefined;
  /** 0: none. */
  readonly keepaliveSeconds: number;
  /** Networks of the peer: where packets to it go, and what it may send from. */
  readonly allowedIps: readonly Cidr[];
  /** Of the last handshake, in seconds since 1970; 0: there was none. As read. */
  readonly handshakeSeconds?: number | undefined;
}

export function wireguardKey(row: WireguardRow): string {
  return row.peer === undefined ? row.device : `${row.device} ${row.peer}`;
}

/** A session ends this long after its handshake (REJECT_AFTER_TIME, WireGuard's paper §6.1). */
const sessionSeconds = 180;

const noKey = Buffer.alloc(32).toString('base64');

/**
 * Keys, ports and peers of the wireguard links with our alias. Where a peer roams to is the kernel's to know as long
 * as there is a session with it. Without one nothing tells that the peer is there: then its endpoint is put back. One
 * that is to be another than was set here before is set at once.
 */
export class WireguardTable implements Table<string, WireguardRow> {
  readonly name = 'wireguard';
  readonly #route: NetlinkSocket;
  readonly #generic: NetlinkSocket;
  /** Endpoints as last set, by row. */
  readonly #endpoints = new Map<string, string>();
  #family: number | undefined;

  /** `route` speaks NETLINK_ROUTE, `generic` NETLINK_GENERIC, in one namespace. */
  constructor({ route, generic }: { route: NetlinkSocket; generic: NetlinkSocket }) {
    this.#route = route;
    this.#generic = generic;
  }

  same(wanted: WireguardRow, actual: WireguardRow): boolean {
    if (wanted.peer !== undefined && actual.peer !== undefined) return this.#samePeer(wanted, actual);
    if (wanted.peer !== undefined || actual.peer !== undefined) return false;
    return wanted.privateKey === actual.privateKey && wanted.listenPort === actual.listenPort;
  }

  #samePeer(wanted: WireguardPeerRow, actual: WireguardPeerRow): boolean {
    return (
      wanted.presharedKey === actual.presharedKey &&
      wanted.keepaliveSeconds === actual.keepaliveSeconds &&
      this.#sameEndpoint(wanted, actual) &&
      JSON.stringify(wanted.allowedIps.toSorted()) === JSON.stringify(actual.allowedIps.toSorted())
    );
  }

  #sameEndpoint(wanted: WireguardPeerRow, actual: WireguardPeerRow): boolean {
    const set = this.#endpoints.get(wireguardKey(wanted));
    if (set !== undefined && set !== endpointText(wanted)) return false;
    return endpointText(wanted) === endpointText(actual) || hasSession(actual);
  }

  async read(): Promise<Map<string, WireguardRow>> {
    const rows = new Map<string, WireguardRow>();
    for (const link of await LinkIndex.read(this.#route)) {
      if (link.kind !== 'wireguard' || link.alias?.startsWith('fairlead') !== true) continue;
      for (const row of rowsOf(link.name, await this.#readDevice(link.name)))
        rows.set(wireguardKey(row), row);
    }
    for (const key of this.#endpoints.keys()) if (!rows.has(key)) this.#endpoints.delete(key);
    return rows;
  }

  async #readDevice(name: string): Promise<WireguardDevice> {
    try {
      const answers = await this.#generic.dump(await this.#message(WG_CMD_GET_DEVICE, { name }));
      return joinWireguardDevices(
        answers.map(({ payload }) => decodeWireguardDevice(decodeGeneric(payload).attributes)),
      );
    } catch (error) {
      if (isMissing(error)) return {}; // gone meanwhile
      throw error;
    }
  }

  async write(changes: readonly Change<string, WireguardRow>[]): Promise<Failure<string>[]> {
    const messages = new Map<Change<string, WireguardRow>, NetlinkMessage>();
    const set = new Set<string>();
    for (const change of changes) {
      const device = change.kind === 'delete' ? removal(change.actual) : this.#setting(change);
      if (device?.peers?.[0]?.endpoint !== undefined) set.add(change.key);
      if (device === undefined) continue; // a device's own part goes with its link
      messages.set(change, await this.#message(WG_CMD_SET_DEVICE, device));
    }
    const sent = changes.filter((change) => messages.has(change));
    const failures = await writeRows(this, this.#generic, sent, (change) => {
      return messages.get(change) as NetlinkMessage | KernelError;
    });
    const failed = new Set(failures.map(({ key }) => key));
    for (const change of sent) {
      if (change.kind === 'delete' || failed.has(change.key)) this.#endpoints.delete(change.key);
      else if (change.wanted.peer !== undefined && set.has(change.key))
        this.#endpoints.set(change.key, endpointText(change.wanted));
    }
    return failures;
  }

  /** What a peer roamed to stays when something else of it changes. */
  #setting(change: Exclude<Change<string, WireguardRow>, { kind: 'delete' }>): WireguardDevice {
    const { wanted } = change;
    const actual = change.kind === 'update' ? change.actual : undefined;
    if (wanted.peer === undefined || actual?.peer === undefined) return settingOf(wanted);
    return settingOf(this.#sameEndpoint(wanted, actual) ? { ...wanted, endpoint: undefined } : wanted);
  }

  async #message(command: number, device: WireguardDevice): Promise<NetlinkMessage> {
    this.#family ??= await readFamilyId(this.#generic, WG_GENL_NAME);
    const attributes = encodeWireguardDevice(device);
    const payload = encodeGeneric({ command, version: WG_GENL_VERSION, attributes });
    const [peer] = device.peers ?? [];
    const verb = command === WG_CMD_GET_DEVICE ? 'WG_CMD_GET_DEVICE' : 'WG_CMD_SET_DEVICE';
    const operation = [verb, device.name, peer?.publicKey].filter((part) => part !== undefined).join(' ');
    return { type: this.#family, flags: 0, payload, operation };
  }
}

function endpointText({ endpoint }: WireguardPeerRow): string {
  return endpoint === undefined ? '' : `${endpoint.ip} ${endpoint.port}`;
}

function hasSession({ handshakeSeconds = 0 }: WireguardPeerRow): boolean {
  return Math.abs(Date.now() / 1000 - handshakeSeconds) < sessionSeconds;
}

function rowsOf(device: string, { privateKey, listenPort, peers = [] }: WireguardDevice): WireguardRow[] {
  const own = privateKey === undefined ? [] : [{ device, privateKey, listenPort: listenPort ?? 0 }];
  return [...own, ...peers.map((peer) => peerRow(device, peer))];
}

function peerRow(device: string, peer: WireguardPeer): WireguardPeerRow {
  return {
    device,
    peer: peer.publicKey,
    presharedKey: peer.presharedKey === noKey ? undefined : peer.presharedKey,
    endpoint: peer.endpoint,
    keepaliveSeconds: peer.keepaliveSeconds ?? 0,
    allowedIps: peer.allowedIps ?? [],
    handshakeSeconds: Number(peer.lastHandshakeSeconds ?? 0n),
  };
}

function settingOf(row: WireguardRow): WireguardDevice {
  if (row.peer === undefined) {
    return { name: row.device, privateKey: row.privateKey, listenPort: row.listenPort };
  }
  const peer: WireguardPeer = {
    publicKey: row.peer,
    flags: WGPEER_F_REPLACE_ALLOWEDIPS,
    presharedKey: row.presharedKey ?? noKey,
    endpoint: row.endpoint,
    keepaliveSeconds: row.keepaliveSeconds,
    allowedIps: row.allowedIps,
  };
  return { name: row.device, peers: [peer] };
}

function removal(row: WireguardRow): WireguardDevice | undefined {
  if (row.peer === undefined) return undefined;
  return { name: row.device, peers: [{ publicKey: row.peer, flags: WGPEER_F_REMOVE_ME }] };
}
