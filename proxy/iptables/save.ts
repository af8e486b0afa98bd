import type { Chain, PlacedRule, TableName } from './rule.ts';

/** What iptables-save says of one family: the rules of every chain, by {@link chainKey}. */
export type SavedChains = ReadonlyMap<string, readonly string[]>;

/** `nat KUBE-SERVICES`. */
export function chainKey({ table, name }: { readonly table: string; readonly name: string }): string {
  return `${table} ${name}`;
}

/** Reads the output of iptables-save. */
export function parseSave(text: string): SavedChains {
  const chains = new Map<string, string[]>();
  let table = '';
  let start = 0;
  while (start < text.length) {
    const found = text.indexOf('\n', start);
    const end = found < 0 ? text.length : found;
    const line = text.slice(start, end);
    start = end + 1;
    if (line.startsWith('*')) table = line.slice(1).trim();
    else if (line.startsWith(':')) chainOf(chains, `${table} ${line.slice(1, line.indexOf(' '))}`);
    else if (line.startsWith('-A ')) {
      const space = line.indexOf(' ', 3);
      const name = line.slice(3, space < 0 ? undefined : space);
      chainOf(chains, `${table} ${name}`).push(space < 0 ? '' : line.slice(space + 1));
    }
  }
  return chains;
}

function chainOf(chains: Map<string, string[]>, key: string): string[] {
  const there = chains.get(key);
  if (there !== undefined) return there;
  const rules: string[] = [];
  chains.set(key, rules);
  return rules;
}

/** All chains with their place. */
export function savedChains(saved: SavedChains): Chain[] {
  return Array.from(saved, ([key, rules]) => {
    const [table, name = ''] = key.split(' ');
    return { table: table as TableName, name, rules };
  });
}

/** The chain that a rule leads to, or another target. */
export function targetOf(rule: string): string | undefined {
  return /(?:^| )-[jg] (\S+)/.exec(
    rule.slice(Math.max(rule.lastIndexOf(' -j '), rule.lastIndexOf(' -g '), 0)),
  )?.[1];
}

export function hasRule(saved: SavedChains, { table, chain, rule }: PlacedRule): boolean {
  return saved.get(`${table} ${chain}`)?.includes(rule) ?? false;
}
