import type { Family } from '../../core/address.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';

/*
 * The iptables backend, for networks that ask for it: rules of iptables are made by programs of the host, whichever
 * of the two kinds (nf_tables, legacy) it uses. Our chains begin with FAIRLEAD-, every rule of ours has a comment by
 * which it is known again, and each chain of the kernel has one jump to us.
 *
 *   PREROUTING, OUTPUT  → FAIRLEAD-HOSTPORTS → FAIRLEAD-HP-MARK (who is masqueraded), then FAIRLEAD-HP-DNAT
 *   POSTROUTING (first) → FAIRLEAD-HP-MASQ
 *   FORWARD (first)     → FAIRLEAD-FORWARD → FAIRLEAD-ADMIN (the administrator's chain), then FAIRLEAD-ACCEPT
 */

export type IptablesTableName = 'nat' | 'filter';

/** A chain whose rules are rows. In which order these stand makes no difference in any of them. */
export const rowChains = {
  'FAIRLEAD-HP-MARK': 'nat',
  'FAIRLEAD-HP-DNAT': 'nat',
  'FAIRLEAD-HP-MASQ': 'nat',
  'FAIRLEAD-ADMIN': 'filter',
  'FAIRLEAD-ACCEPT': 'filter',
} as const satisfies Record<string, IptablesTableName>;
export type RowChain = keyof typeof rowChains;

/** One rule. */
export interface IptablesRow {
  readonly family: Family;
  readonly chain: RowChain;
  /** The rule as iptables-restore takes it, from its first match to its target: `-p tcp -m tcp --dport 80 -j ACCEPT`. */
  readonly rule: string;
  /** A chain of others that the rule jumps to and that is made when it is not there. */
  readonly needs?: string | undefined;
  /** The host port that the rule stands for, as the element that the nftables backend would have. */
  readonly claim?: NftElement | undefined;
  /** Of rules that were read: a jump or a chain on the way to it is missing, so it has no effect. */
  readonly isCutOff?: boolean | undefined;
}

/** Chains that only jump, each with its rules in order. */
export const fixedChains: readonly FixedChain[] = [
  {
    table: 'nat',
    chain: 'FAIRLEAD-HOSTPORTS',
    rules: ['-j FAIRLEAD-HP-MARK', '-j FAIRLEAD-HP-DNAT'],
  },
  {
    table: 'filter',
    chain: 'FAIRLEAD-FORWARD',
    rules: ['-j FAIRLEAD-ADMIN', '-j FAIRLEAD-ACCEPT'],
  },
];

interface FixedChain {
  readonly table: IptablesTableName;
  readonly chain: string;
  readonly rules: readonly string[];
}

/** The jumps from the kernel's chains. `first`: before what others have there. */
export const jumps: readonly Jump[] = [
  { table: 'nat', from: 'PREROUTING', rule: jumpToHostports('fairlead host ports'), first: false },
  { table: 'nat', from: 'OUTPUT', rule: jumpToHostports('fairlead host ports'), first: false },
  // The masquerading rules of others would come first and choose as they like.
  {
    table: 'nat',
    from: 'POSTROUTING',
    rule: commented('fairlead host ports', 'FAIRLEAD-HP-MASQ'),
    first: true,
  },
  { table: 'filter', from: 'FORWARD', rule: commented('fairlead firewall', 'FAIRLEAD-FORWARD'), first: true },
];

export interface Jump {
  readonly table: IptablesTableName;
  readonly from: 'PREROUTING' | 'OUTPUT' | 'POSTROUTING' | 'FORWARD';
  readonly rule: string;
  readonly first: boolean;
}

function jumpToHostports(comment: string): string {
  return `-m addrtype --dst-type LOCAL ${commented(comment, 'FAIRLEAD-HOSTPORTS')}`;
}

function commented(comment: string, target: string): string {
  return `-m comment --comment "${comment}" -j ${target}`;
}
