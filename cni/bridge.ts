import { familyOf, type HostCidr, hostCidr, type Mac } from '../core/address.ts';
import { reconcile } from '../core/reconcile.ts';
import { type Change, type Failure, layer, type Plan, type Table } from '../core/rows.ts';
import { type AddressRow, AddressTable, addressKey } from '../kernel/address.ts';
import { isMissing, KernelError } from '../kernel/errors.ts';
import { type LinkRow, LinkTable } from '../kernel/link.ts';
import { isOurs } from '../kernel/linkindex.ts';
import { type Address, decodeAddress, encodeAddressDump } from '../kernel/netlink/route/address.ts';
import { decodeLink, encodeLink, getLinkMessage, IFF_UP, type Link } from '../kernel/netlink/route/link.ts';
import { AF_UNSPEC, FAIRLEAD_PROTOCOL, RTM_GETADDR, RTM_SETLINK } from '../kernel/netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import { bridgeMac } from './attachment.ts';
import type { ChangeRecord } from './changes.ts';
import { CniError, cniCode } from './error.ts';
import { planBridgeAddresses } from './types/bridge.ts';

/** A bridge as it must be for pods to be on it. */
export interface BridgeRows {
  readonly link: LinkRow;
  readonly addresses: readonly AddressRow[];
  readonly sysctls: ReadonlyMap<string, string>;
  /** Parameters that exist once the link does. */
  readonly linkSysctls: ReadonlyMap<string, string>;
  /** False: somebody else made it, and it stays his. Then its MTU does, too. */
  readonly isOwn: boolean;
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
 * A bridge of somebody else's that the host has no gateway address on goes on to listen to routers: its uplink may be
 * among its ports.
 */
export function planBridge(
  name: string,
  mtuBytes: number | undefined,
  gateways: readonly HostCidr[],
  mac: Mac | undefined = bridgeMac(gateways),
  isOwn = true,
): BridgeRows {
  const sysctls = new Map<string, string>();
  const linkSysctls = new Map<string, string>();
  // Or a pod could say that it is a router, and the node believe it, which does not forward IPv6 (CVE-2020-10749).
  if (isOwn || gateways.length > 0) linkSysctls.set(acceptRa(name), '0');
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
    isOwn,
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
  /** Where changes of what is not ours are written down. */
  readonly record?: ChangeRecord | undefined;
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
    const there = await this.#find(name);
    const foreign = there === undefined ? [] : await this.#foreignAddresses(there.index, wish);
    // A MAC that pods may know already stays.
    const mac = gateways.length > 0 ? there?.mac : undefined;
    const isOwn = there === undefined || isOurs(there);
    const rows = planBridge(name, wish.mtuBytes, gateways, mac, isOwn);
    let writes = isOwn ? 0 : await this.#settle(there, rows);
    writes += await this.#reconcile(rows, new Set(foreign));
    const link = await this.#read(name);
    if (link === undefined) throw bridgeError(name, new Error('it vanished'));
    if (wish.promiscuous && ((link.flags ?? 0) & IFF_PROMISC) === 0) {
      if (!isOwn) this.#options.record?.bridge(name, { addresses: [], promiscuous: true });
      await this.#set(name, { flags: IFF_PROMISC, changeMask: IFF_PROMISC });
      writes += 1;
    }
    return { link, writes };
  }

  /**
   * A bridge of somebody else's is up, and keeps the MAC that it has: by default that is the lowest of its ports', and
   * pods come and go.
   */
  async #settle({ flags = 0 }: Link, { link: { name, mac } }: BridgeRows): Promise<number> {
    const isDown = (flags & IFF_UP) === 0;
    if (isDown) await this.#set(name, { flags: IFF_UP, changeMask: IFF_UP });
    if (mac !== undefined) await this.#set(name, { mac });
    return isDown ? 1 : 0;
  }

  async #reconcile(
    { link, addresses, sysctls, linkSysctls, isOwn }: BridgeRows,
    foreign: ReadonlySet<HostCidr>,
  ): Promise<number> {
    const { socket, record } = this.#options;
    const links = scoped(new LinkTable({ socket }), (row) => row.name === link.name);
    const isMine = ({ device, address }: AddressRow) => device === link.name && !foreign.has(address);
    const guest = isOwn ? undefined : link.name;
    const onAddresses = (changes: readonly Change<string, AddressRow>[]) => {
      const made = changes.flatMap((change) => (change.kind === 'create' ? [change.wanted.address] : []));
      if (!isOwn && made.length > 0) record?.bridge(link.name, { addresses: made });
    };
    const plan: Plan = [
      layer(this.#sysctls(sysctls, true), sysctls),
      ...(isOwn ? [layer(links, new Map([[link.name, link]]))] : []),
      layer(this.#sysctls(linkSysctls, !isOwn), linkSysctls),
      layer(
        scoped(new AddressTable({ socket, guest }), isMine, onAddresses),
        new Map(addresses.map((row) => [addressKey(row), row])),
      ),
    ];
    const { failures, writes } = await reconcile(plan);
    const serious = failures.find((failure) => !isOptional(failure));
    if (serious !== undefined) throw bridgeError(link.name, serious.error);
    return writes - failures.length;
  }

  /** What belongs to a link of ours goes with it, and needs no record. */
  #sysctls(wanted: ReadonlyMap<string, string>, isRecorded: boolean): Table<string, string> {
    const { namespaceFd = -1, record } = this.#options;
    const table = new SysctlTable({ keys: [...wanted.keys()], namespaceFd });
    return scoped(
      table,
      () => true,
      (changes) => {
        for (const change of changes) {
          if (isRecorded && change.kind === 'update')
            record?.setting(change.key, change.actual, change.wanted);
        }
      },
    );
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

  async #find(name: string): Promise<Link | undefined> {
    const link = await this.#read(name);
    if (link === undefined || link.kind === 'bridge') return link;
    throw new CniError(cniCode.invalidConfig, `"${name}" already exists but is not a bridge`);
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
function scoped<V>(
  table: Table<string, V>,
  isMine: (row: V) => boolean,
  onWrite: (changes: readonly Change<string, V>[]) => void = () => {},
): Table<string, V> {
  return {
    name: table.name,
    same: (wanted, actual) => table.same(wanted, actual),
    read: async () => new Map([...(await table.read())].filter(([, row]) => isMine(row))),
    write: (changes) => {
      onWrite(changes);
      return table.write(changes);
    },
  };
}
