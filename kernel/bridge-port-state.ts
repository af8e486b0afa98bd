import { IFF_UP } from './netlink/route/link.ts';
import { readBridgePort } from './netlink/route/linkinfo.ts';
import { AF_BRIDGE, RTM_GETLINK } from './netlink/route/rtnetlink.ts';
import { encodeVlanDump } from './netlink/route/vlan.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { Reader } from './netlink/wire.ts';

const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_MASTER = 10;
const IFLA_PROTINFO = 12;

/** A port of a bridge, as the kernel tells it. */
export interface PortState {
  readonly name: string;
  /** Index of the bridge. */
  readonly masterIndex: number;
  readonly isUp: boolean;
  readonly mtuBytes: number;
  readonly hairpin: boolean;
  readonly isolated: boolean;
}

/** All ports of bridges of one namespace at one moment, their VLANs too; not decoded before somebody asks. */
export class PortsRead {
  readonly #payloads: readonly Uint8Array[];

  private constructor(payloads: readonly Uint8Array[]) {
    this.#payloads = payloads;
  }

  /** One question: links that are no ports are not in its answer, nor is any counter. Throws KernelError. */
  static async read(socket: NetlinkSocket): Promise<PortsRead> {
    const message = {
      type: RTM_GETLINK,
      flags: 0,
      payload: encodeVlanDump(),
      operation: 'RTM_GETLINK ports',
    };
    return new PortsRead((await socket.dump(message)).map(({ payload }) => payload));
  }

  /** Whether nothing was told then that is not told now. */
  equals(other: PortsRead): boolean {
    const [mine, theirs] = [this.#payloads, other.#payloads];
    if (mine.length !== theirs.length) return false;
    return mine.every((payload, index) => Buffer.compare(payload, theirs[index] as Uint8Array) === 0);
  }

  /** By name. */
  ports(): Map<string, PortState> {
    const ports = new Map<string, PortState>();
    for (const payload of this.#payloads) {
      const port = decodePort(payload);
      if (port !== undefined) ports.set(port.name, port);
    }
    return ports;
  }
}

/** Undefined: what a bridge tells of itself. */
function decodePort(payload: Uint8Array): PortState | undefined {
  const reader = new Reader(payload, 'port');
  const isBridge = reader.u8() === AF_BRIDGE;
  const flags = reader.skip(7).u32();
  const attributes = reader.skip(4).attributes();
  const [name, masterIndex] = [attributes.text(IFLA_IFNAME), attributes.u32(IFLA_MASTER)];
  const port = attributes.nested(IFLA_PROTINFO);
  if (!isBridge || port === undefined || name === undefined || masterIndex === undefined) return undefined;
  const { hairpin = false, isolated = false } = readBridgePort(port);
  const isUp = (flags & IFF_UP) !== 0;
  return { name, masterIndex, isUp, mtuBytes: attributes.u32(IFLA_MTU) ?? 0, hairpin, isolated };
}
