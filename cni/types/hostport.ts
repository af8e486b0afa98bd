import { addressBits, type Family, families, type Ip, ipFromBytes } from '../../core/address.ts';
import type { FlowFilter } from '../../kernel/conntrack.ts';
import { bytesOfHex, nftKey } from '../../kernel/netlink/nftables/keys.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { CniError, cniCode } from '../error.ts';
import type { IptablesRow } from '../iptables/layout.ts';
import { cniSets } from '../nft-layout.ts';

export type PortProtocol = 'tcp' | 'udp' | 'sctp';
/** In the IP header. */
export const protocolNumbers = { tcp: 6, udp: 17, sctp: 132 } as const satisfies Record<PortProtocol, number>;

/** One host port of one family, and where it leads. Two containers cannot have the same one. */
export interface HostPort {
  readonly family: Family;
  /** Undefined: every local address of the family. */
  readonly hostIp?: Ip | undefined;
  readonly protocol: PortProtocol;
  readonly hostPort: number;
  readonly pod: Ip;
  readonly containerPort: number;
}

const addressTypes = { 4: 'ipv4_addr', 6: 'ipv6_addr' } as const;
/** Protocol and port in a key of a map of host ports, each filled up to four bytes. */
const portDigits = 16;

/** As an element of the map of its family. */
export function hostPortElement(port: HostPort): NftElement {
  const { family, hostIp, protocol, hostPort, pod, containerPort } = port;
  const { hostports, hostIpPorts } = cniSets(family);
  const address = addressTypes[family];
  const data = nftKey([address, 'inet_service'], pod, containerPort);
  const number = protocolNumbers[protocol];
  if (hostIp === undefined) {
    return { set: hostports, key: nftKey(['inet_proto', 'inet_service'], number, hostPort), data };
  }
  return {
    set: hostIpPorts,
    key: nftKey([address, 'inet_proto', 'inet_service'], hostIp, number, hostPort),
    data,
  };
}

const familyOfSet: ReadonlyMap<string, Family> = new Map(
  families.flatMap((family) => {
    const { hostports, hostIpPorts } = cniSets(family);
    return [hostports, hostIpPorts].map((set): [string, Family] => [set, family]);
  }),
);

/** The inverse of {@link hostPortElement}; undefined for elements of other sets. */
export function hostPortOf({ set, key, data }: NftElement): HostPort | undefined {
  const family = familyOfSet.get(set);
  if (family === undefined || typeof data !== 'string') return undefined;
  const port = bytesOfHex(key.slice(-portDigits));
  const host = bytesOfHex(key.slice(0, -portDigits));
  const target = bytesOfHex(data);
  return {
    family,
    hostIp: host.length === 0 ? undefined : ipFromBytes(host),
    protocol: protocolOf(port[0] ?? 0),
    hostPort: u16be(port, 4),
    pod: ipFromBytes(target.subarray(0, target.length - 4)),
    containerPort: u16be(target, target.length - 4),
  };
}

function protocolOf(number: number): PortProtocol {
  return number === protocolNumbers.udp ? 'udp' : number === protocolNumbers.sctp ? 'sctp' : 'tcp';
}

function u16be(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

/** Leads to the same place too. */
export function sameHostPort(one: HostPort, other: HostPort): boolean {
  const [a, b] = [hostPortElement(one), hostPortElement(other)];
  return a.set === b.set && a.key === b.key && a.data === b.data;
}

/** Whether a packet could be meant for both: every address is one of "any". */
export function overlap(one: HostPort, other: HostPort): boolean {
  const { family, hostPort, protocol } = one;
  if (family !== other.family || hostPort !== other.hostPort || protocol !== other.protocol) return false;
  return one.hostIp === undefined || other.hostIp === undefined || one.hostIp === other.hostIp;
}

/** `8080/tcp`, `192.0.2.1:8080/tcp`, `[2001:db8::1]:53/udp` */
export function describeHostPort({ hostIp, hostPort, protocol, family }: HostPort): string {
  const host = hostIp === undefined ? '' : family === 6 ? `[${hostIp}]:` : `${hostIp}:`;
  return `${host}${hostPort}/${protocol}`;
}

/** The rows that an attachment has its host ports by, whichever the backend. */
export interface HostPortRows {
  readonly elements?: readonly NftElement[] | undefined;
  readonly iptables?: readonly IptablesRow[] | undefined;
}

function claimsOf({ elements = [], iptables = [] }: HostPortRows): NftElement[] {
  const claims = iptables.flatMap(({ claim }) => (claim === undefined ? [] : [claim]));
  return [...elements.filter(({ set }) => familyOfSet.has(set)), ...claims];
}

const addressDigitsOfSet: ReadonlyMap<string, number> = new Map(
  families.flatMap((family) => {
    const { ports, addresses, links, marks } = cniSets(family).conditions;
    const all = [ports, addresses, ...Object.values(links), ...Object.values(marks)];
    return all.map((set): [string, number] => [set, addressBits(family) / 4]);
  }),
);

/** The elements that the conditions of a port are, as a text; `number` is the end of the port's own key. */
function conditionsOf({ elements = [] }: HostPortRows, number: string): string {
  const own = elements.filter(({ set, key }) => {
    const from = addressDigitsOfSet.get(set);
    return from !== undefined && key.slice(from, from + portDigits) === number;
  });
  return own.map(nftElementKey).toSorted().join();
}

/** The host ports that rows of an attachment stand for. */
export function hostPortsOf(rows: HostPortRows): HostPort[] {
  return claimsOf(rows).flatMap((claim) => hostPortOf(claim) ?? []);
}

/** Somebody who has host ports. */
export interface HostPortHolder {
  /** Tells holders apart. */
  readonly key: string;
  readonly containerId: string;
}

interface Claim {
  readonly holder: HostPortHolder;
  readonly claim: NftElement;
  readonly conditions: string;
}

/** Who has which host ports, found by protocol and port. */
export class HostPortHolders {
  readonly #claims = new Map<string, Claim[]>();

  add(holder: HostPortHolder, rows: HostPortRows): void {
    for (const claim of claimsOf(rows)) {
      const number = claim.key.slice(-portDigits);
      const there = this.#claims.get(number);
      const one = { holder, claim, conditions: conditionsOf(rows, number) };
      if (there === undefined) this.#claims.set(number, [one]);
      else there.push(one);
    }
  }

  /** What was added once is removed once. */
  remove({ key }: HostPortHolder, rows: HostPortRows): void {
    for (const claim of claimsOf(rows)) {
      const number = claim.key.slice(-portDigits);
      const there = this.#claims.get(number) ?? [];
      const index = there.findIndex((one) => one.holder.key === key && one.claim.key === claim.key);
      if (index >= 0) there.splice(index, 1);
      if (there.length === 0) this.#claims.delete(number);
    }
  }

  /**
   * The refusal when a host port of the wanted rows is another container's. Runtimes give the same ports to every network
   * of a container; then they must have the same conditions, for these are told apart by the port only. `key`: that of the holder to be.
   */
  conflict(containerId: string, wanted: HostPortRows, key: string = containerId): CniError | undefined {
    const ports = hostPortsOf(wanted);
    for (const number of new Set(claimsOf(wanted).map((claim) => claim.key.slice(-portDigits)))) {
      for (const { holder, claim, conditions } of this.#claims.get(number) ?? []) {
        if (holder.key === key) continue;
        const other = hostPortOf(claim);
        const taken = other && ports.find((port) => overlap(port, other));
        if (taken === undefined) continue;
        if (holder.containerId !== containerId) return takenBy(taken, holder);
        if (conditions !== conditionsOf(wanted, number)) return otherwiseConditioned(taken);
      }
    }
    return undefined;
  }
}

function otherwiseConditioned(port: HostPort): CniError {
  const text = describeHostPort(port);
  const message = `hostPort ${text} has other conditions in another network of the container`;
  return new CniError(cniCode.invalidConfig, message, `hostPort ${text}`);
}

function takenBy(port: HostPort, { containerId }: HostPortHolder): CniError {
  const text = describeHostPort(port);
  const message = `hostPort ${text} is already taken by ${containerId}`;
  return new CniError(cniCode.invalidConfig, message, `hostPort ${text}`);
}

/**
 * UDP flows to forget when host ports come or go: datagrams of a known flow never see the maps again, and a client
 * that goes on sending would be stuck with the pod that was there before, or with nobody. TCP begins anew by itself.
 */
export function staleFlows(ports: readonly HostPort[]): FlowFilter[] {
  return ports
    .filter(({ protocol }) => protocol === 'udp')
    .map(({ family, hostIp, hostPort }) => ({
      family,
      protocol: protocolNumbers.udp,
      original: hostIp === undefined ? { dport: hostPort } : { dst: hostIp, dport: hostPort },
    }));
}
