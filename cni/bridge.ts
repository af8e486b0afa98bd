import { familyOf, type HostCidr } from '../core/address.ts';
import { reconcile } from '../core/reconcile.ts';
import { type Failure, layer, type Plan, type Table } from '../core/rows.ts';
import { type AddressRow, AddressTable, addressKey } from '../kernel/address.ts';
import { KernelError } from '../kernel/errors.ts';
import { type LinkRow, LinkTable } from '../kernel/link.ts';
import { decodeLink, encodeLink, getLinkMessage } from '../kernel/netlink/route/link.ts';
import { RTM_SETLINK } from '../kernel/netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import { bridgeMac } from './attachment.ts';
import { CniError, cniCode } from './error.ts';
import type { BridgeNeed } from './part.ts';

/** A bridge as it must be for pods to be on it. */
export interface BridgeRows {
  readonly link: LinkRow;
  readonly addresses: readonly AddressRow[];
  readonly sysctls: ReadonlyMap<string, string>;
  /** Parameters that exist once the link does. */
  readonly linkSysctls: ReadonlyMap<string, string>;
}

/**
 * A packet that a pod sends to its gateway is for the bridge's own MAC: the host takes it in, and forwards it only
 * if forwarding is on. Bridged packets between pods pass netfilter only with bridge-nf-call on, which a service's
 * answer needs to be translated back; without the module br_netfilter these two parameters do not exist.
 *
 * The bridge asks for pods' MACs from its link-local address, which duplicate detection would withhold for one to
 * two seconds after the first pod is there. The address follows from a MAC that is ours alone.
 */
export function planBridge(
  name: string,
  mtuBytes: number | undefined,
  gateways: readonly HostCidr[],
): BridgeRows {
  const sysctls = new Map<string, string>();
  const linkSysctls = new Map<string, string>();
  for (const gateway of gateways) {
    const isV4 = familyOf(gateway) === 4;
    sysctls.set(isV4 ? 'net/ipv4/ip_forward' : 'net/ipv6/conf/all/forwarding', '1');
    sysctls.set(isV4 ? `${bridgeFilterPrefix}iptables` : `${bridgeFilterPrefix}ip6tables`, '1');
    if (!isV4) linkSysctls.set(`net/ipv6/conf/${name}/accept_dad`, '0');
  }
  return {
    link: { name, kind: 'bridge', alias: bridgeAlias, mac: bridgeMac(gateways), mtuBytes, up: true },
    addresses: gateways.map((address) => ({ device: name, address })),
    sysctls,
    linkSysctls,
  };
}

const bridgeAlias = 'fairlead bridge';
const bridgeFilterPrefix = 'net/bridge/bridge-nf-call-';

export interface BridgesOptions {
  /** In the node's namespace. */
  readonly socket: NetlinkSocket;
  readonly namespaceFd?: number | undefined;
  /** Addresses that pods on the bridge still use, whatever the configuration says now. */
  readonly gatewaysInUse: (bridge: string) => Iterable<HostCidr>;
}

interface Known {
  readonly mtuBytes: number | undefined;
  readonly gateways: Set<HostCidr>;
  ready: Promise<void> | true;
}

/** The bridges of this node: each is made once, and again after {@link forget}. */
export class Bridges {
  readonly #options: BridgesOptions;
  readonly #known = new Map<string, Known>();

  constructor(options: BridgesOptions) {
    this.#options = options;
  }

  /** True at once when the bridge is known to be there; else when it is. Throws CniError. */
  ensure({ bridge, mtuBytes, gateways }: BridgeNeed): true | Promise<void> {
    const known = this.#known.get(bridge);
    if (known !== undefined && gateways.every((gateway) => known.gateways.has(gateway))) return known.ready;
    const all = new Set([...gateways, ...(known?.gateways ?? []), ...this.#options.gatewaysInUse(bridge)]);
    const next: Known = { mtuBytes, gateways: all, ready: true };
    next.ready = this.#make(bridge, next, known?.ready);
    this.#known.set(bridge, next);
    return next.ready;
  }

  /** The bridge turned out to be gone. */
  forget(bridge: string): void {
    this.#known.delete(bridge);
  }

  async #make(bridge: string, known: Known, earlier: Promise<void> | true | undefined): Promise<void> {
    await Promise.resolve(earlier).catch(() => {});
    try {
      await this.#adopt(bridge);
      await this.#reconcile(planBridge(bridge, known.mtuBytes, [...known.gateways]));
      known.ready = true;
    } catch (error) {
      if (this.#known.get(bridge) === known) this.#known.delete(bridge);
      throw error;
    }
  }

  async #reconcile({ link, addresses, sysctls, linkSysctls }: BridgeRows): Promise<void> {
    const { socket, namespaceFd = -1 } = this.#options;
    const links = scoped(new LinkTable({ socket }), (row) => row.name === link.name);
    const places = scoped(new AddressTable({ socket }), (row) => row.device === link.name);
    const plan: Plan = [
      layer(new SysctlTable({ keys: [...sysctls.keys()], namespaceFd }), sysctls),
      layer(links, new Map([[link.name, link]])),
      layer(new SysctlTable({ keys: [...linkSysctls.keys()], namespaceFd }), linkSysctls),
      layer(places, new Map(addresses.map((row) => [addressKey(row), row]))),
    ];
    const { failures } = await reconcile(plan);
    const serious = failures.find((failure) => !isOptional(failure));
    if (serious !== undefined) throw bridgeError(link.name, serious.error);
  }

  /** A bridge of this name made by another CNI plugin becomes ours, with the pods that are on it. */
  async #adopt(bridge: string): Promise<void> {
    const { socket } = this.#options;
    const [error] = await socket.submit([getLinkMessage({ name: bridge })]);
    if (error !== undefined) return;
    const [answer] = await socket.request(getLinkMessage({ name: bridge }));
    const link = answer === undefined ? undefined : decodeLink(answer.payload);
    if (link?.kind !== 'bridge') {
      throw new CniError(cniCode.invalidConfig, `"${bridge}" already exists but is not a bridge`);
    }
    if (link.alias === bridgeAlias) return;
    const payload = encodeLink({ index: link.index, alias: bridgeAlias });
    await socket.request({ type: RTM_SETLINK, flags: 0, payload, operation: `RTM_SETLINK ${bridge} alias` });
  }
}

function isOptional({ key, error }: Failure): boolean {
  return (
    String(key).startsWith(bridgeFilterPrefix) && error instanceof KernelError && error.code === 'ENOENT'
  );
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
