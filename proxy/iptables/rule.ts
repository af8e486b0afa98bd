import { addressBits, type Family, type Ip } from '../../core/address.ts';
import type { Protocol } from '../protocol.ts';

export type TableName = 'filter' | 'nat' | 'mangle';

/** A chain with its rules in order, each as iptables-save prints it behind `-A CHAIN `. */
export interface Chain {
  readonly table: TableName;
  readonly name: string;
  readonly rules: readonly string[];
}

/** One rule in its place: `rule` is what stands behind `-A CHAIN `. */
export interface PlacedRule {
  readonly table: TableName;
  readonly chain: string;
  readonly rule: string;
}

/** A rule in parts. Addresses and interfaces may begin with `! `. */
export interface Rule {
  /** A network, as `10.0.0.0/8`, `! 10.0.0.0/8`. */
  readonly source?: string | undefined;
  readonly destination?: string | undefined;
  /** The interface that the packet came in by; `cni+` is all that begin with "cni". */
  readonly input?: string | undefined;
  readonly protocol?: Protocol | undefined;
  /** Free text: what could end it is taken out. */
  readonly comment?: string | undefined;
  /** Further matches as written, such as `-m addrtype --dst-type LOCAL`. */
  readonly match?: string | undefined;
  /** Of the destination; needs `protocol`. */
  readonly port?: number | undefined;
  /** A target with its options, such as `DROP`, or the name of a chain. */
  readonly target: string;
}

/**
 * The rule in the very words and order in which iptables-save prints it (1.8.9, both kinds): so what is in the kernel
 * can be compared as text. Where a version prints otherwise, its chains are merely written once more by a full pass.
 */
export function renderRule(rule: Rule): string {
  const { source, destination, input, protocol, comment, match, port, target } = rule;
  let text = option('-s', source) + option('-d', destination) + option('-i', input);
  if (protocol !== undefined) text += `-p ${protocol} `;
  if (comment !== undefined) text += `-m comment --comment ${renderComment(comment)} `;
  if (match !== undefined) text += `${match} `;
  if (port !== undefined) text += `-m ${protocol} --dport ${port} `;
  return `${text}-j ${target}`;
}

function option(name: string, value: string | undefined): string {
  if (value === undefined) return '';
  return value.startsWith('! ') ? `! ${name} ${value.slice(2)} ` : `${name} ${value} `;
}

/** XT_MAX_COMMENT_LEN, with the zero at its end. */
const COMMENT_BYTES_MAX = 255;

/** Quotation marks, backslashes, line ends and all that is not ASCII become question marks. */
function renderComment(text: string): string {
  const safe = text.slice(0, COMMENT_BYTES_MAX).replaceAll(/[^\w ./:;,>[\]()=@-]/g, '?');
  return /^[\w-]+$/.test(safe) ? safe : `"${safe}"`;
}

/** `10.0.0.1/32`. */
export function hostNetwork(ip: Ip, family: Family): string {
  return `${ip}/${addressBits(family)}`;
}

/** The share of connections that this rule takes of those that reach it: 0 < share < 1. */
export function randomMatch(share: number): string {
  // As the kernel keeps it, in 31 bits, and as it is printed back.
  const kept = Math.max(1, Math.min(Math.round(share * 2 ** 31), 2 ** 31 - 1)) / 2 ** 31;
  return `-m statistic --mode random --probability ${kept.toFixed(11)}`;
}

/**
 * The client was sent to this endpoint in the last `seconds`; `rememberMatch` puts it on the list. The kernel remembers
 * 100 clients of each list, the parameter `ip_list_tot` of xt_recent.
 */
export function rememberedMatch(list: string, seconds: number, family: Family): string {
  return `-m recent --rcheck --seconds ${seconds} --reap --name ${list} --mask ${hostMask[family]} --rsource`;
}

export function rememberMatch(list: string, family: Family): string {
  return `-m recent --set --name ${list} --mask ${hostMask[family]} --rsource`;
}

const hostMask: Readonly<Record<Family, string>> = {
  4: '255.255.255.255',
  6: 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff',
};

export const toNode = '-m addrtype --dst-type LOCAL';
export const fromNode = '-m addrtype --src-type LOCAL';

/**
 * Answers as if nothing listened. TCP gets a reset, other than in kube-proxy: an ICMP error that comes back while
 * connect() holds the socket is passed over (tcp_v4_err, tcp_v6_err), and the client waits a second to ask again.
 */
export function rejectTarget(family: Family, protocol: Protocol): string {
  const answer = family === 4 ? 'icmp-port-unreachable' : 'icmp6-port-unreachable';
  return `REJECT --reject-with ${protocol === 'tcp' ? 'tcp-reset' : answer}`;
}
