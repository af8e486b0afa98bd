import { type Cidr, type Family, families, familyOf } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { type FilterPrograms, type IptablesKind, iptablesKinds } from './iptables-programs.ts';

/*
 * The life of one packet that is forwarded for a pod: the kernel lets it through where nobody drops it. Where iptables
 * has a chain FORWARD with the policy DROP (Docker sets it, ufw too), that one drops it. What a chain of nftables accepts
 * is still asked about in all others, so no rule of ours there changes that; an accepting rule in that chain does:
 *
 *   FORWARD (behind what others have there) → FAIRLEAD-CLUSTER → ACCEPT from and to the cluster's networks
 *
 * Each of the two kinds of iptables has such chains, and a host may have both. Where none drops, nothing is made, and
 * no program is started: the kernel tells policies by netlink, and in /proc which tables of the legacy kind there are.
 */

/** One family: the networks to and from which packets are accepted, where FORWARD drops. */
export interface ForwardRow {
  readonly accepted: readonly Cidr[];
  /** As read; undefined in wanted rows. */
  readonly found?: FoundForward | undefined;
}

export interface FoundForward {
  /** Whether FORWARD drops what no rule accepts. */
  readonly drops: boolean;
  /** Rules of our chain as iptables prints them, behind its name; undefined: it is not there. */
  readonly rules: readonly string[] | undefined;
  readonly jumps: number;
}

export const forwardChain = 'FAIRLEAD-CLUSTER';
const jump = `-m comment --comment "fairlead cluster" -j ${forwardChain}`;
const key = (family: Family) => `IPv${family}`;

/** The rows of either kind: what is wanted does not depend on whether anybody drops. */
export function forwardRows(networks: readonly Cidr[]): Map<string, ForwardRow> {
  const rows = families.map((family) => {
    return [key(family), { accepted: networks.filter((cidr) => familyOf(cidr) === family) }] as const;
  });
  return new Map(rows.filter(([, { accepted }]) => accepted.length > 0));
}

function rulesFor({ accepted }: ForwardRow): string[] {
  return accepted.flatMap((cidr) => [`-s ${cidr} -j ACCEPT`, `-d ${cidr} -j ACCEPT`]);
}

/** Reads `*filter` of what iptables-save says. */
export function parseForward(text: string): FoundForward {
  const lines = text.split('\n');
  const own = lines.filter((line) => line.startsWith(`-A ${forwardChain} `));
  return {
    drops: lines.some((line) => line.startsWith(':FORWARD DROP')),
    rules: lines.some((line) => line.startsWith(`:${forwardChain} `))
      ? own.map((line) => line.slice(`-A ${forwardChain} `.length))
      : undefined,
    jumps: lines.filter((line) => line === `-A FORWARD ${jump}`).length,
  };
}

/** For iptables-restore --noflush, which empties a chain that it declares. Undefined in `wanted`: all goes. */
export function renderForward(wanted: ForwardRow | undefined, { rules, jumps }: FoundForward): string {
  const removed = Array.from({ length: jumps }, () => `-D FORWARD ${jump}`);
  const made = wanted && [
    `:${forwardChain} - [0:0]`,
    ...rulesFor(wanted).map((rule) => `-A ${forwardChain} ${rule}`),
    ...(jumps === 1 ? [] : [...removed, `-A FORWARD ${jump}`]),
  ];
  const gone = [...removed, ...(rules === undefined ? [] : [`-F ${forwardChain}`, `-X ${forwardChain}`])];
  return `*filter\n${(made ?? gone).join('\n')}\nCOMMIT\n`;
}

/** Rows of one kind of iptables; `wanted`: the families whose rows are always read. */
export class ForwardTable implements Table<string, ForwardRow> {
  readonly name: `iptables-${IptablesKind}`;
  readonly #programs: FilterPrograms;
  readonly #kind: IptablesKind;
  readonly #wanted: ReadonlySet<string>;

  constructor(programs: FilterPrograms, kind: IptablesKind, wanted: Iterable<string> = []) {
    this.name = `iptables-${kind}`;
    this.#programs = programs;
    this.#kind = kind;
    this.#wanted = new Set(wanted);
  }

  same(wanted: ForwardRow, { accepted, found }: ForwardRow): boolean {
    if (found === undefined) return wanted.accepted.join() === accepted.join();
    const { drops, rules, jumps } = found;
    if (!drops) return rules === undefined && jumps === 0;
    return jumps === 1 && rules?.join('\n') === rulesFor(wanted).join('\n');
  }

  async read(): Promise<Map<string, ForwardRow>> {
    const rows = families.map(async (family) => [key(family), await this.#found(family)] as const);
    const isRow = ([name, { rules, jumps }]: readonly [string, FoundForward]) =>
      this.#wanted.has(name) || rules !== undefined || jumps > 0;
    return new Map(
      (await Promise.all(rows)).filter(isRow).map(([name, found]) => [name, { accepted: [], found }]),
    );
  }

  async #found(family: Family): Promise<FoundForward> {
    const isThere = await this.#programs.mayHave(this.#kind, family, forwardChain);
    if (!isThere) return { drops: false, rules: undefined, jumps: 0 };
    return parseForward(await this.#programs.save(this.#kind, family));
  }

  async write(changes: readonly Change<string, ForwardRow>[]): Promise<Failure<string>[]> {
    const failures: Failure<string>[] = [];
    for (const change of changes) {
      const family = families.find((one) => key(one) === change.key);
      if (family === undefined) continue;
      try {
        const found = await this.#found(family);
        const wanted = change.kind === 'delete' || !found.drops ? undefined : change.wanted;
        if (wanted === undefined && found.rules === undefined && found.jumps === 0) continue;
        await this.#programs.restore(this.#kind, family, renderForward(wanted, found));
      } catch (error) {
        failures.push({ key: change.key, kind: change.kind, error: error as Error });
      }
    }
    return failures;
  }
}

/** Tables of both kinds, for `layer`. */
export function forwardTables(programs: FilterPrograms, wanted: Iterable<string> = []): ForwardTable[] {
  const names = [...wanted];
  return iptablesKinds.map((kind) => new ForwardTable(programs, kind, names));
}
