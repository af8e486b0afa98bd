import type { Chain, PlacedRule, TableName } from './rule.ts';
import { chainKey } from './save.ts';

/** What is to be done to the kernel's chains; each table of it is one transaction. */
export interface Edit {
  /** Chains that are not there yet, so that nothing leads to them, and have these rules afterwards. */
  readonly fresh: readonly Chain[];
  /** Chains that are made when they are not there, and have exactly these rules afterwards. */
  readonly write: readonly Chain[];
  /** Chains that are emptied and taken away: nothing may lead to them afterwards. */
  readonly remove: readonly Omit<Chain, 'rules'>[];
  /** Rules that are taken away from chains that stay: they must be there. */
  readonly deleteRules: readonly PlacedRule[];
  /** Rules that come before all others of their chain; of two in one chain the later one is first. */
  readonly insertRules: readonly PlacedRule[];
  /** Rules that come behind all others of their chain. */
  readonly appendRules: readonly PlacedRule[];
  /** Chains of others that are made when they are not there. */
  readonly need?: readonly Omit<Chain, 'rules'>[];
}

export const emptyEdit: Edit = {
  fresh: [],
  write: [],
  remove: [],
  deleteRules: [],
  insertRules: [],
  appendRules: [],
};

/** Rules go before the chains that they lead to change, and filter stands before nat, as kube-proxy has it. */
const order = ['filter', 'nat', 'mangle'] as const satisfies readonly TableName[];

/** The input of `iptables-restore --noflush` that does it; empty when there is nothing to do. */
export function renderEdit(edit: Edit, arrange = (names: string[]) => names.sort()): string {
  return order.map((table) => renderTable(table, edit, arrange)).join('');
}

function renderTable(table: TableName, edit: Edit, arrange: (names: string[]) => string[]): string {
  const of = <T extends { readonly table: TableName }>(list: readonly T[]) =>
    list.filter((one) => one.table === table);
  const written = [...of(edit.write), ...of(edit.fresh)];
  // Naming a chain that is there empties it.
  const names = [...of(edit.need ?? []), ...written, ...of(edit.remove)].map(({ name }) => name);
  const lines = arrange(names).map((name) => `:${name} - [0:0]`);
  for (const { chain, rule } of of(edit.deleteRules)) lines.push(`-D ${chain} ${rule}`);
  for (const { name, rules } of written) for (const rule of rules) lines.push(`-A ${name} ${rule}`);
  for (const { chain, rule } of of(edit.insertRules)) lines.push(`-I ${chain} ${rule}`);
  for (const { chain, rule } of of(edit.appendRules)) lines.push(`-A ${chain} ${rule}`);
  for (const { name } of of(edit.remove)) lines.push(`-X ${name}`);
  return lines.length === 0 ? '' : `*${table}\n${lines.join('\n')}\nCOMMIT\n`;
}

/** How many chains and rules an edit is about. */
export function editSize(edit: Edit): number {
  const rules = writtenBy(edit).reduce((sum, chain) => sum + 1 + chain.rules.length, 0);
  const others = [edit.remove, edit.deleteRules, edit.insertRules, edit.appendRules, edit.need ?? []];
  return others.reduce((sum, list) => sum + list.length, rules);
}

/** How many rules of a table an edit writes. */
export function rulesWritten(edit: Edit, table: TableName): number {
  const placed = [...edit.insertRules, ...edit.appendRules].filter((rule) => rule.table === table).length;
  return writtenBy(edit).reduce(
    (sum, chain) => (chain.table === table ? sum + chain.rules.length : sum),
    placed,
  );
}

function writtenBy({ write, fresh }: Edit): Chain[] {
  return [...write, ...fresh];
}

/** The chains that an edit is about, as by {@link chainKey}. */
export function chainsOf(edit: Edit): Set<string> {
  const placed = [...edit.deleteRules, ...edit.insertRules, ...edit.appendRules];
  return new Set([
    ...[...writtenBy(edit), ...edit.remove, ...(edit.need ?? [])].map(chainKey),
    ...placed.map(({ table, chain }) => chainKey({ table, name: chain })),
  ]);
}
