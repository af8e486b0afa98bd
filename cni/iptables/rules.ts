import { createHash } from 'node:crypto';
import type { Family } from '../../core/address.ts';
import type { Change } from '../../core/rows.ts';
import {
  fixedChains,
  type IptablesRow,
  type IptablesTableName,
  jumps,
  type RowChain,
  rowChains,
} from './layout.ts';

export type { IptablesRow } from './layout.ts';

/** What iptables-save says of one family, as far as it is ours. */
export interface IptablesState {
  /** Every chain, as `nat PREROUTING`. */
  readonly chains: ReadonlySet<string>;
  /** Rules of our row chains by row key, as iptables prints them. */
  readonly rows: ReadonlyMap<string, IptablesRow>;
  /** Jumps and rules of our fixed chains, as `nat PREROUTING -m … -j …`. */
  readonly fixed: ReadonlySet<string>;
}

const mark = 'fairlead-';
const hashDigits = 16;

/**
 * The rule's name. It is the rule's comment in the kernel, because iptables prints rules in words of its own: by
 * them a rule could not be known again.
 */
function nameOf({ family, chain, rule }: IptablesRow): string {
  const text = `${family} ${chain} ${rule}`;
  return mark + createHash('sha256').update(text).digest('hex').slice(0, hashDigits);
}

/** The row's key in its table. */
export function iptablesKey(row: IptablesRow): string {
  return `${row.family} ${row.chain} ${nameOf(row)}`;
}

/** The rule with its name, as one line of iptables-restore has it behind the chain. */
function namedRule(row: IptablesRow): string {
  const at = row.rule.lastIndexOf('-j ');
  return `${row.rule.slice(0, at)}-m comment --comment ${nameOf(row)} ${row.rule.slice(at)}`;
}

/** Reads the output of iptables-save. */
export function parseIptablesSave(text: string, family: Family): IptablesState {
  const chains = new Set<string>();
  const rows = new Map<string, IptablesRow>();
  const fixed = new Set<string>();
  let table = '';
  for (const line of text.split('\n')) {
    if (line.startsWith('*')) table = line.slice(1).trim();
    else if (line.startsWith(':')) chains.add(`${table} ${line.slice(1).split(' ', 1)[0]}`);
    else if (line.startsWith('-A ')) {
      const [, chain = '', rule = ''] = /^-A (\S+) ?(.*)$/.exec(line) ?? [];
      const name = new RegExp(`--comment "?(${mark}[0-9a-f]{${hashDigits}})"?(?: |$)`).exec(rule)?.[1];
      if (isRowChain(chain) && name !== undefined) {
        rows.set(`${family} ${chain} ${name}`, { family, chain, rule });
      } else fixed.add(`${table} ${chain} ${rule}`);
    }
  }
  return { chains, rows, fixed };
}

function isRowChain(chain: string): chain is RowChain {
  return Object.hasOwn(rowChains, chain);
}

/**
 * The input of `iptables-restore --noflush` that makes the changes: chains and jumps that are missing first. One
 * block for each table, each of which is done as a whole or not at all. Undefined: nothing to do.
 */
export function renderRestore(
  changes: readonly Change<string, IptablesRow>[],
  state: IptablesState,
): string | undefined {
  const blocks = (['nat', 'filter'] as const).map((table) =>
    renderBlock(
      table,
      linesFor(
        table,
        changes.filter((change) => tableOfChange(change) === table),
        state,
      ),
    ),
  );
  const text = blocks.join('');
  return text === '' ? undefined : text;
}

function renderBlock(table: IptablesTableName, lines: readonly string[]): string {
  return lines.length === 0 ? '' : `*${table}\n${lines.join('\n')}\nCOMMIT\n`;
}

function tableOfChange(change: Change<string, IptablesRow>): IptablesTableName {
  return rowChains[change.kind === 'delete' ? change.actual.chain : change.wanted.chain];
}

function linesFor(
  table: IptablesTableName,
  changes: readonly Change<string, IptablesRow>[],
  state: IptablesState,
): string[] {
  const created = changes.flatMap((change) => (change.kind === 'delete' ? [] : [change.wanted]));
  const lines = changes.map((change) => renderChange(change, state)).filter((line) => line !== '');
  return created.length === 0 ? lines : [...frameLines(table, created, state), ...lines];
}

/** What must be there before rows are: chains, those that only jump, and the jumps to them. */
function frameLines(
  table: IptablesTableName,
  created: readonly IptablesRow[],
  state: IptablesState,
): string[] {
  const needed = created.flatMap(({ needs }) => (needs === undefined ? [] : [needs]));
  // Only chains that are not there: to name one that is would empty it.
  const chains = [...new Set([...ownChains(table), ...needed])].filter(
    (chain) => !state.chains.has(`${table} ${chain}`),
  );
  return [...chains.map((chain) => `:${chain} - [0:0]`), ...fixedLines(table, state)];
}

function ownChains(table: IptablesTableName): string[] {
  const withRows = Object.entries(rowChains).filter(([, of]) => of === table);
  const fixed = fixedChains.filter((one) => one.table === table);
  return [...withRows.map(([chain]) => chain), ...fixed.map(({ chain }) => chain)];
}

function fixedLines(table: IptablesTableName, { fixed }: IptablesState): string[] {
  const inside = fixedChains
    .filter((one) => one.table === table)
    .flatMap(({ chain, rules }) => {
      const inPlace = rules.every((rule) => fixed.has(`${table} ${chain} ${rule}`));
      return inPlace ? [] : [`-F ${chain}`, ...rules.map((rule) => `-A ${chain} ${rule}`)];
    });
  const missing = jumps.filter(
    ({ table: of, from, rule }) => of === table && !fixed.has(`${table} ${from} ${rule}`),
  );
  return [...inside, ...missing.map(({ from, rule, first }) => `${first ? '-I' : '-A'} ${from} ${rule}`)];
}

function renderChange(change: Change<string, IptablesRow>, { rows }: IptablesState): string {
  if (change.kind === 'delete') {
    const there = rows.get(change.key);
    return there === undefined ? '' : `-D ${there.chain} ${there.rule}`;
  }
  return rows.has(change.key) ? '' : `-A ${change.wanted.chain} ${namedRule(change.wanted)}`;
}

/** The input of `iptables-restore --noflush` that takes away all that is ours. Undefined: nothing is there. */
export function renderRemoval(state: IptablesState): string | undefined {
  const blocks = (['nat', 'filter'] as const).map((table) => {
    const chains = ownChains(table).filter((chain) => state.chains.has(`${table} ${chain}`));
    return renderBlock(table, [
      ...jumps
        .filter((jump) => jump.table === table && state.fixed.has(`${table} ${jump.from} ${jump.rule}`))
        .map(({ from, rule }) => `-D ${from} ${rule}`),
      ...chains.map((chain) => `-F ${chain}`),
      ...chains.map((chain) => `-X ${chain}`),
    ]);
  });
  const text = blocks.join('');
  return text === '' ? undefined : text;
}
