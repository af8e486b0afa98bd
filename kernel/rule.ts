import type { Cidr, Family } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL } from './netlink/message.ts';
import { FAIRLEAD_PROTOCOL, RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE } from './netlink/route/rtnetlink.ts';
import { decodeRule, encodeRule, encodeRuleDump, FR_ACT_TO_TBL, type Rule } from './netlink/route/rule.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { writeRows } from './write.ts';

const FWMARK_MASK_ALL = 0xffffffff;

/** "Packets like this look in that table." */
export interface RuleRow {
  readonly family: Family;
  /** Rules are tried from the lowest up. */
  readonly priority: number;
  readonly table: number;
  readonly from?: Cidr | undefined;
  readonly to?: Cidr | undefined;
  readonly fwmark?: number | undefined;
  /** Which bits of the mark count; by default all. */
  readonly fwmask?: number | undefined;
}

/** All of the row: a rule never changes, it is another one. */
export function ruleKey({ family, priority, table, from, to, fwmark, fwmask }: RuleRow): string {
  const mark = fwmark === undefined ? 'any' : `${fwmark}/${fwmask ?? FWMARK_MASK_ALL}`;
  return `IPv${family} ${priority} from ${from ?? 'any'} to ${to ?? 'any'} mark ${mark} table ${table}`;
}

/** The rules with our protocol number that look in a table. */
export class RuleTable implements Table<string, RuleRow> {
  readonly name = 'rule';
  readonly #socket: NetlinkSocket;

  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#socket = socket;
  }

  same(wanted: RuleRow, actual: RuleRow): boolean {
    return ruleKey(wanted) === ruleKey(actual);
  }

  async read(): Promise<Map<string, RuleRow>> {
    const rows = new Map<string, RuleRow>();
    for (const family of [4, 6] as const) {
      const operation = `RTM_GETRULE IPv${family}`;
      const payload = encodeRuleDump(family);
      for (const message of await this.#socket.dump({ type: RTM_GETRULE, flags: 0, payload, operation })) {
        const rule = decodeRule(message.payload);
        if (rule.protocol !== FAIRLEAD_PROTOCOL || rule.action !== FR_ACT_TO_TBL) continue;
        rows.set(ruleKey(rule), rowFrom(rule));
      }
    }
    return rows;
  }

  async write(changes: readonly Change<string, RuleRow>[]): Promise<Failure<string>[]> {
    return writeRows(this, this.#socket, changes, encodeChange);
  }
}

function rowFrom({ family, priority, table, from, to, fwmark, fwmask }: Rule): RuleRow {
  return { family, priority, table, from, to, fwmark, fwmask };
}

function encodeChange(change: Change<string, RuleRow>): NetlinkMessage {
  const row = change.kind === 'delete' ? change.actual : change.wanted;
  const payload = encodeRule({
    ...row,
    fwmask: row.fwmark === undefined ? undefined : (row.fwmask ?? FWMARK_MASK_ALL),
    action: FR_ACT_TO_TBL,
    protocol: FAIRLEAD_PROTOCOL,
  });
  return change.kind === 'delete'
    ? { type: RTM_DELRULE, flags: 0, payload, operation: `RTM_DELRULE ${change.key}` }
    : {
        type: RTM_NEWRULE,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        payload,
        operation: `RTM_NEWRULE ${change.key}`,
      };
}
