import type { Family } from '../../core/address.ts';
import { emptyEdit, renderEdit } from './edit.ts';
import { PROBE } from './layout.ts';
import { IptablesError, type Programs } from './program.ts';
import type { PlacedRule, TableName } from './rule.ts';
import { targetOf } from './save.ts';

/** Of one service, as far as it was tried. */
export interface ServiceRules {
  readonly service: string;
  readonly rules: readonly PlacedRule[];
}

/** What iptables or the kernel does not take. */
export interface Refusal {
  /** As by {@link featuresOf}. */
  readonly features: readonly string[];
  /** Services with a rule that is refused, whatever it needs. */
  readonly services: readonly string[];
}

/** How often rules are tried to find those that are refused: enough for a few services among thousands. */
const PROBES_MAX = 100;

const builtIn = /^(ACCEPT|DROP|RETURN)$/;

/** The matches and targets that a rule needs: `match recent`, `target DNAT`. */
export function featuresOf({ rule }: Pick<PlacedRule, 'rule'>): string[] {
  const bare = rule.replaceAll(/--comment ("[^"]*"|\S+)/g, '');
  const matches = Array.from(bare.matchAll(/(?:^| )-m (\S+)/g), ([, name]) => `match ${name}`);
  const target = targetOf(bare);
  const isChain = target === undefined || builtIn.test(target) || target.startsWith('KUBE-');
  return isChain ? matches : [...matches, `target ${target}`];
}

/** `match recent` in words, with the kernel's module. */
export function featureText(feature: string): string {
  const [kind = '', name = ''] = feature.split(' ');
  const module = kind === 'match' ? `xt_${name}` : `xt_${name}, ipt_${name}`;
  return `${kind} "${name}" (${module})`;
}

/**
 * Finds what of the services' rules is refused, by trying rules in a chain of their own that nothing leads to.
 * Undefined: nothing is, or nothing at all can be written, or it is too much to be found.
 */
export async function findRefusal(
  programs: Programs,
  family: Family,
  services: readonly ServiceRules[],
): Promise<Refusal | undefined> {
  let probes = 0;
  const isTaken = async (rules: readonly PlacedRule[]) => {
    probes += 1;
    if (probes > PROBES_MAX) throw new IptablesError('too many rules are refused');
    return await isTakenBy(programs, family, rules);
  };
  try {
    if (!(await isTaken([]))) return undefined;
    const examples = [...examplesOf(services)];
    const features = await refusedOf(examples, (some) => isTaken(some.map(([, { rule }]) => rule)));
    if (features.length > 0) return { features: features.map(([feature]) => feature), services: [] };
    const refused = await refusedOf(services, (some) => isTaken(some.flatMap(({ rules }) => rules)));
    return refused.length === 0
      ? undefined
      : { features: [], services: refused.map(({ service }) => service) };
  } catch (error) {
    if (error instanceof IptablesError) return undefined;
    throw error;
  }
}

/** For each match and target, the rule with the fewest others. */
function examplesOf(
  services: readonly ServiceRules[],
): Map<string, { readonly rule: PlacedRule; readonly others: number }> {
  const examples = new Map<string, { rule: PlacedRule; others: number }>();
  for (const rule of services.flatMap(({ rules }) => rules)) {
    const features = featuresOf(rule);
    for (const feature of features) {
      const others = features.length - 1;
      if (others < (examples.get(feature)?.others ?? Number.POSITIVE_INFINITY))
        examples.set(feature, { rule, others });
    }
  }
  return examples;
}

/** By halves: of those that are taken together, none is refused. */
async function refusedOf<T>(
  items: readonly T[],
  areTaken: (items: readonly T[]) => Promise<boolean>,
): Promise<readonly T[]> {
  if (items.length === 0 || (await areTaken(items))) return [];
  if (items.length === 1) return items;
  const middle = items.length >> 1;
  return [
    ...(await refusedOf(items.slice(0, middle), areTaken)),
    ...(await refusedOf(items.slice(middle), areTaken)),
  ];
}

/** In two steps: the legacy kind tells the kernel of nothing that is gone by the end of one. */
async function isTakenBy(programs: Programs, family: Family, rules: readonly PlacedRule[]): Promise<boolean> {
  const tables: readonly TableName[] = ['filter', 'nat'];
  const fresh = tables.map((table) => ({
    table,
    name: PROBE,
    rules: rules.filter((rule) => rule.table === table).map(({ rule }) => withoutChain(rule)),
  }));
  try {
    await programs.restore(family, renderEdit({ ...emptyEdit, fresh }));
    return true;
  } catch (error) {
    // Being too late, or not there, says nothing of the rules.
    if (error instanceof IptablesError && /^[123]$|^4$/.test(error.code ?? '')) return false;
    throw error;
  } finally {
    const remove = tables.map((table) => ({ table, name: PROBE }));
    await programs.restore(family, renderEdit({ ...emptyEdit, remove })).catch(() => undefined);
  }
}

/** The chain that it leads to need not be there. */
function withoutChain(rule: string): string {
  const target = targetOf(rule);
  return target?.startsWith('KUBE-') === true ? `${rule.slice(0, -target.length)}RETURN` : rule;
}
