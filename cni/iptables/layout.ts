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
 *
 * Host ports at 127.0.0.1 need route_localnet, with which the kernel no longer refuses such addresses from the wire. So
 * one rule of PREROUTING drops them before anything else (CVE-2020-8558). It stays when the host ports are gone, as the
 * parameter does.
 */

export const iptablesTables = ['mangle', 'nat', 'filter'] as const;
export type IptablesTableName = (typeof iptablesTables)[number];

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

/** What rows of one table need to be of any effect. */
export interface Frame {
  /** Whose rows need it. */
  readonly of: IptablesTableName;
  /** Undefined: both. */
  readonly family?: Family;
  /** Where it is. */
  readonly table: IptablesTableName;
  /** A chain that only jumps, with its rules in order. */
  readonly chain?: { readonly name: string; readonly rules: readonly string[] };
  /** Rules in chains of the kernel, in the words of iptables-save. `first`: before what others have there. */
  readonly entries: readonly Entry[];
}

interface Entry {
  readonly from: 'PREROUTING' | 'OUTPUT' | 'POSTROUTING' | 'FORWARD';
  readonly rule: string;
  readonly first: boolean;
}

export const frames: readonly Frame[] = [
  {
    of: 'nat',
    table: 'nat',
    chain: { name: 'FAIRLEAD-HOSTPORTS', rules: ['-j FAIRLEAD-HP-MARK', '-j FAIRLEAD-HP-DNAT'] },
    entries: [
      { from: 'PREROUTING', rule: jumpToHostports('fairlead host ports'), first: false },
      { from: 'OUTPUT', rule: jumpToHostports('fairlead host ports'), first: false },
      // The masquerading rules of others would come first and choose as they like.
      { from: 'POSTROUTING', rule: commented('fairlead host ports', 'FAIRLEAD-HP-MASQ'), first: true },
    ],
  },
  {
    of: 'nat',
    family: 4,
    table: 'mangle',
    entries: [
      {
        from: 'PREROUTING',
        rule: `-d 127.0.0.0/8 ! -i lo ${commented('fairlead loopback from the wire', 'DROP')}`,
        first: true,
      },
    ],
  },
  {
    of: 'filter',
    table: 'filter',
    chain: { name: 'FAIRLEAD-FORWARD', rules: ['-j FAIRLEAD-ADMIN', '-j FAIRLEAD-ACCEPT'] },
    entries: [{ from: 'FORWARD', rule: commented('fairlead firewall', 'FAIRLEAD-FORWARD'), first: true }],
  },
];

function jumpToHostports(comment: string): string {
  return `-m addrtype --dst-type LOCAL ${commented(comment, 'FAIRLEAD-HOSTPORTS')}`;
}

function commented(comment: string, target: string): string {
  return `-m comment --comment "${comment}" -j ${target}`;
}
