import type { RuleContext } from './context.ts';
import { type Edit, emptyEdit } from './edit.ts';
import {
  dispatchChains,
  FIREWALL,
  firewallRules,
  jumps,
  MARK,
  ownChains,
  POSTROUTING,
  tables,
} from './layout.ts';
import { isPortChain } from './names.ts';
import { type FamilyPlan, sameRules } from './plan.ts';
import type { Chain, PlacedRule } from './rule.ts';
import { chainKey, hasRule, type SavedChains, savedChains, targetOf } from './save.ts';

/** Wanted chains minus those that are there: what makes any state the wanted one. */
export function compare(plan: FamilyPlan, context: RuleContext, saved: SavedChains): Edit {
  const wanted = plan.wanted();
  const names = new Set(wanted.map(chainKey));
  const isThere = (chain: Chain) => isSame(chain, saved.get(chainKey(chain)), plan.tailOf(chain));
  const stale = savedChains(saved).filter((chain) => isOwn(chain) && !names.has(chainKey(chain)));
  const inUse = usedByOthers(saved);
  const missing = (rule: PlacedRule) => !hasRule(saved, rule);
  const firewall = firewallRules(context).filter(missing);
  const isWithoutFirewall = firewall.length > 0 && !saved.has(`filter ${FIREWALL}`);
  return {
    fresh: wanted.filter((chain) => !saved.has(chainKey(chain))),
    write: [
      ...wanted.filter((chain) => saved.has(chainKey(chain)) && !isThere(chain)),
      // Somebody else's rule leads there: it can be emptied only.
      ...stale
        .filter((chain) => inUse.has(chainKey(chain)) && chain.rules.length > 0)
        .map(({ table, name }) => ({ table, name, rules: [] })),
    ],
    remove: stale.filter((chain) => !inUse.has(chainKey(chain))).map(({ table, name }) => ({ table, name })),
    deleteRules: [],
    insertRules: jumps(context).filter(missing),
    appendRules: firewall,
    need: isWithoutFirewall ? [{ table: 'filter', name: FIREWALL }] : [],
  };
}

const dispatch = new Set(dispatchChains.map(chainKey));

/** In dispatch chains services stand in the order in which they came. */
function isSame(chain: Chain, actual: readonly string[] | undefined, tail: number): boolean {
  if (actual === undefined || actual.length !== chain.rules.length) return false;
  if (!dispatch.has(chainKey(chain))) return sameRules(actual, chain.rules);
  const end = chain.rules.length - tail;
  return (
    sameSet(actual.slice(0, end), chain.rules.slice(0, end)) &&
    sameSet(actual.slice(end), chain.rules.slice(end))
  );
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  const set = new Set(a);
  return set.size === a.length && b.every((rule) => set.has(rule));
}

/** Whether we made this chain, or a kube-proxy before us did. */
export function isOwn({ table, name }: Omit<Chain, 'rules'>): boolean {
  if (!tables.includes(table)) return false;
  return ownChains[table].includes(name) || (table === 'nat' && isPortChain(name));
}

/** Chains that rules of others lead to, other than the kernel's. */
function usedByOthers(saved: SavedChains): Set<string> {
  const used = new Set<string>();
  for (const chain of savedChains(saved)) {
    if (isOwn(chain)) continue;
    for (const rule of chain.rules) used.add(`${chain.table} ${targetOf(rule)}`);
  }
  return used;
}

const builtIn = new Set(['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']);

/**
 * What takes away all that is ours. Where a chain of others, such as a CNI plugin's, still marks by KUBE-MARK-MASQ, that
 * chain and the one that obeys the mark stay. So does KUBE-FIREWALL: kubelet has the same rule in it, and nothing tells
 * whether a kubelet of the past relies on it.
 */
export function removal(saved: SavedChains): Edit {
  const chains = savedChains(saved);
  const kept = keptByOthers(chains);
  const gone = chains.filter((chain) => isOwn(chain) && !kept.has(chainKey(chain)));
  const names = new Set(gone.map(chainKey));
  const leading = chains
    .filter(({ name }) => builtIn.has(name))
    .flatMap(({ table, name, rules }) =>
      rules
        .filter((rule) => names.has(`${table} ${targetOf(rule)}`))
        .map((rule) => ({ table, chain: name, rule })),
    );
  return {
    ...emptyEdit,
    remove: gone.map(({ table, name }) => ({ table, name })),
    deleteRules: leading,
  };
}

/** Our chains that rules of others lead to, and those that these lead to. */
function keptByOthers(chains: readonly Chain[]): Set<string> {
  const rulesOf = new Map(chains.map((chain) => [chainKey(chain), chain.rules]));
  const kept = new Set<string>();
  const waiting = chains
    .filter((chain) => !isOwn(chain) && !builtIn.has(chain.name))
    .flatMap(({ table, rules }) => rules.map((rule) => `${table} ${targetOf(rule)}`));
  if (waiting.includes(`nat ${MARK}`)) waiting.push(`nat ${POSTROUTING}`);
  for (let key = waiting.pop(); key !== undefined; key = waiting.pop()) {
    if (kept.has(key)) continue;
    kept.add(key);
    const [table] = key.split(' ', 1);
    waiting.push(...(rulesOf.get(key) ?? []).map((rule) => `${table} ${targetOf(rule)}`));
  }
  return kept;
}
