import { familyOf, type HostCidr, hostCidr, type Mac } from '../core/address.ts';
import { reconcile } from '../core/reconcile.ts';
import { type Failure, layer, type Plan, type Table } from '../core/rows.ts';
import { type AddressRow, AddressTable, addressKey } from '../kernel/address.ts';
import { isMissing, KernelError } from '../kernel/errors.ts';
import { type LinkRow, LinkTable } from '../kernel/link.ts';
import { type Address, decodeAddress, encodeAddressDump } from '../kernel/netlink/route/address.ts';
import { decodeLink, encodeLink, getLinkMessage, type Link } from '../kernel/netlink/route/link.ts';
import { AF_UNSPEC, FAIRLEAD_PROTOCOL, RTM_GETADDR, RTM_SETLINK } from '../kernel/netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import { bridgeMac } from './attachment.ts';
import { CniError, cniCode } from './error.ts';
import { planBridgeAddresses } from './types/bridge.ts';

/** A bridge as it must be for pods to be on it. */
export interface BridgeRows {
  readonly link: LinkRow;
  readonly addresses: readonly AddressRow[];
  readonly sysctls: ReadonlyMap<string, string>;
  /** Parameters that exist once the link does. */
  readonly linkSysctls: ReadonlyMap<string, string>;
}

/** What all that use a bridge want of it together. */
export interface BridgeWish {
  readonly name: string;
  readonly mtuBytes: number | undefined;
  readonly gateways: readonly HostCidr[];
  readonly promiscuous: boolean;
  /** What becomes of addresses of others. */
  readonly addressConflict: 'keep' | 'refuse' | 'replace';
}

/**
 * A packet that a pod sends to its gateway is for the bridge's own MAC: the host takes it in, and forwards it only
 * if forwarding is on. Bridged packets between pods pass netfilter only with bridge-nf-call on, which a service's
 * answer needs to be translated back; without the module br_netfilter these two parameters do not exist.
 *
 * The bridge asks for pods' MACs from its link-local address, which duplicate detection would withhold for one to
 * two seconds after the first pod is there. The address follows from a MAC that is ours alone.
 *
 * A bridge that was there before, and that the host has no gateway address on, goes on to listen to routers: its uplink
 * may be among its ports.
 */
export function planBridge(
  name: string,
  mtuBytes: number | undefined,
  gateways: readonly HostCidr[],
  mac: Mac | undefined = bridgeMac(gateways),
  isNew = true,
): BridgeRows {
  const sysctls = new Map<string, string>();
  const linkSysctls = new Map<string, string>();
  // Or a pod could say that it is a router, and the node believe it, which does not forward IPv6 (CVE-2020-10749).
  if (isNew || gateways.length > 0) linkSysctls.set(acceptRa(name), '0');
  for (const gateway of gateways) {
    const isV4 = familyOf(gateway) === 4;
    sysctls.set(isV4 ? 'net/ipv4/ip_forward' : 'net/ipv6/conf/all/forwarding', '1');
    sysctls.set(isV4 ? `${bridgeFilterPrefix}iptables` : `${bridgeFilterPrefix}ip6tables`, '1');
    if (!isV4) linkSysctls.set(`net/ipv6/conf/${name}/accept_dad`, '0');
  }
  return {
    link: { name, kind: 'bridge', alias: bridgeAlias, mac, mtuBytes, up: true },
    addresses: gateways.map((address) => ({ device: name, address })),
    sysctls,
    linkSysctls,
  };
}

const acceptRa = (name: string) => `net/ipv6/conf/${name}/accept_ra`;
const bridgeAlias = 'fairlead bridge';
const bridgeFilterPrefix = 'net/bridge/bridge-nf-call-';
/** In struct ifaddrmsg. */
const IFA_INDEX_OFFSET = 4;
/** Set for good, not by what the bridge does itself. */
export const IFF_PROMISC = 0x100;

export interface BridgeWriterOptions {
  /** In the node's namespace. */
  readonly socket: NetlinkSocket;
  readonly namespaceFd?: number | undefined;
}

/** How a bridge stands, and how many rows had to be written for it. */
export interface MadeBridge {
  readonly link: Link;
  readonly writes: number;
}

/** A bridge as it stands. */
export interface SeenBridge {
  /** Undefined: it is not there. */
  readonly link: Link | undefined;
  readonly addresses: readonly HostCidr[];
}

/** Makes one bridge what is wished of it, however it is. */
export class BridgeWriter {
  readonly #options: BridgeWriterOptions;

  constructor(options: BridgeWriterOptions) {
    this.#options = options;
  }

  /** Throws CniError. */
  async make(wish: BridgeWish): Promise<MadeBridge> {
    const { name, gateways } = wish;
    const there = await this.#adopt(name);
    const foreign = there === undefined ? [] : await this.#foreignAddresses(there.index, wish);
    // A MAC that pods may know already stays.
    const mac = gateways.length > 0 ? there?.mac : undefined;
    const rows = planBridge(name, wish.mtuBytes, gateways, mac, there === undefined);
    let writes = await this.#reconcile(rows, new Set(foreign));
    const link = await this.#read(name);
    if (link === undefined) throw bridgeError(name, new Error('it vanished'));
    if (wish.promiscuous && ((link.flags ?? 0) & IFF_PROMISC) === 0) {
      await this.#set(name, { flags: IFF_PROMISC, changeMask: IFF_PROMISC });
      writes += 1;
    }
    return { link, writes };
  }

  async #reconcile(
    { link, addresses, sysctls, linkSysctls }: BridgeRows,
    foreign: ReadonlySet<HostCidr>,
  ): Promise<number> {
    const { socket, namespaceFd = -1 } = this.#options;
    const links = scoped(new LinkTable({ socket }), (row) => row.name === link.name);
    const isMine = ({ device, address }: AddressRow) => device === link.name && !foreign.has(address);
    const plan: Plan = [
      layer(new SysctlTable({ keys: [...sysctls.keys()], namespaceFd }), sysctls),
      layer(links, new Map([[link.name, link]])),
      layer(new SysctlTable({ keys: [...linkSysctls.keys()], namespaceFd }), linkSysctls),
      layer(
        scoped(new AddressTable({ socket }), isMine),
        new Map(addresses.map((row) => [addressKey(row), row])),
      ),
    ];
    const { failures, writes } = await reconcile(plan);
    const serious = failures.find((failure) => !isOptional(failure));
    if (serious !== undefined) throw bridgeError(link.name, serious.error);
    return writes - failures.length;
  }

  /** Two short questions: what many pods do to other links plays no part in it. Throws CniError. */
  async look(name: string): Promise<SeenBridge> {
    const link = await this.#read(name);
    const addresses = link === undefined ? [] : await this.#addresses(link.index ?? 0);
    return { link, addresses: addresses.map(({ ip, prefixLength }) => hostCidr(ip, prefixLength)) };
  }

  async #addresses(index: number): Promise<Address[]> {
    const payload = encodeAddressDump(AF_UNSPEC);
    // Only those of the one link (ifa_index), which kernels before 5.0 do not know.
    new DataView(payload.buffer, payload.byteOffset).setInt32(IFA_INDEX_OFFSET, index, true);
    const operation = 'RTM_GETADDR';
    const messages = await this.#options.socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation });
    const addresses = messages.map((message) => decodeAddress(message.payload));
    return addresses.filter((address) => address.index === index);
  }

  /** Addresses that others gave the bridge and that stay. */
  async #foreignAddresses(index: number | undefined, wish: BridgeWish): Promise<HostCidr[]> {
    const foreign = (await this.#addresses(index ?? 0))
      .filter(({ protocol }) => protocol !== FAIRLEAD_PROTOCOL)
      .map(({ ip, prefixLength }) => hostCidr(ip, prefixLength))
      .filter((address) => !wish.gateways.includes(address) && !/^fe[89ab]/.test(address));
    const conflicting = planBridgeAddresses({ ...wish, bridge: wish.name }, foreign);
    if (conflicting instanceof CniError) throw conflicting;
    return foreign.filter((address) => !conflicting.includes(address));
  }

  /** A bridge of this name made by another CNI plugin becomes ours, with the pods that are on it. */
  async #adopt(name: string): Promise<Link | undefined> {
    const link = await this.#read(name);
    if (link === undefined) return undefined;
    if (link.kind !== 'bridge') {
      throw new CniError(cniCode.invalidConfig, `"${name}" already exists but is not a bridge`);
    }
    if (link.alias !== bridgeAlias) await this.#set(name, { alias: bridgeAlias });
    return link;
  }

  async #read(name: string): Promise<Link | undefined> {
    try {
      const [answer] = await this.#options.socket.request(getLinkMessage({ name }));
      return answer === undefined ? undefined : decodeLink(answer.payload);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw bridgeError(name, error as Error);
    }
  }

  async #set(name: string, change: Partial<Link>): Promise<void> {
    const payload = encodeLink({ name, ...change });
    await this.#options.socket.request({
      type: RTM_SETLINK,
      flags: 0,
      payload,
      operation: `RTM_SETLINK ${name}`,
    });
  }
}

function isOptional({ key, error }: Failure): boolean {
  const mayMiss = String(key).startsWith(bridgeFilterPrefix) || String(key).endsWith('/accept_ra');
  return mayMiss && error instanceof KernelError && error.code === 'ENOENT';
}

function bridgeError(bridge: string, error: Error): CniError {
  return new CniError(cniCode.internal, `failed to set up bridge "${bridge}": ${error.message}`);
}

/** The rows of a table that one planner answers for: others' rows on the same kind of object are not its own. */
function scoped<V>(table: Table<string, V>, isMine: (row: V) => boolean): Table<string, V> {
  return {
    name: table.name,
    same: (wanted, actual) => table.same(wanted, actual),
    read: async () => new Map([...(await table.read())].filter(([, row]) => isMine(row))),
    write: (changes) => table.write(changes),
  };
}
