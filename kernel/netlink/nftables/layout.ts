import { createHash } from 'node:crypto';
import type { NetlinkMessage } from '../message.ts';
import { message } from './constants.ts';
import { newAnonymousSet } from './encode-elements.ts';
import { newChain, newRule, newSet, newTable } from './messages.ts';
import type { NftChain, NftLayout } from './spec.ts';

/** The messages that make a layout, and the mark that the kernel keeps with it. */
export interface EncodedLayout {
  /** The table's comment: "fairlead layout", a hash of all that the layout is made of, and its note. */
  readonly mark: string;
  /** Table, chains, sets, and the rules of chains that are only jumped to: no packet meets any of them. */
  readonly begin: readonly NetlinkMessage[];
  /** The rules of chains with hooks: what puts the table in force. */
  readonly end: readonly NetlinkMessage[];
  /** All rules in the order of chains, as a dump has them. */
  readonly rules: readonly NetlinkMessage[];
}

const HASH_DIGITS = 16;
const MARK = 'fairlead layout';

/** The note in a table's comment; undefined where the comment is not one of ours, empty where there is no note. */
export function noteOfMark(comment: string | undefined): string | undefined {
  const [, note] = new RegExp(`^${MARK} [0-9a-f]{${HASH_DIGITS}}(?: (.*))?$`).exec(comment ?? '') ?? [];
  return comment?.startsWith(`${MARK} `) ? (note ?? '') : undefined;
}

/**
 * Each message names only what is there before it. Elements come between begin and end: the kernel looks at all
 * elements of a map for each chain with a rule that uses it, and when most such rules come there are none yet.
 */
export function encodeLayout(layout: NftLayout): EncodedLayout {
  const chains = layout.chains.map((chain) => newChain(layout, chain));
  const sets = layout.sets.map((set, index) => newSet(layout, set, index + 1));
  const rulesByChain = encodeRules(layout);
  const rules = rulesByChain.flat();
  const hash = createHash('sha256');
  for (const { type, payload } of [newTable(layout), ...chains, ...sets, ...rules]) {
    hash.update(`${type} ${payload.length} `).update(payload);
  }
  const digest = hash.digest('hex').slice(0, HASH_DIGITS);
  const mark = `${MARK} ${digest}${layout.note === undefined ? '' : ` ${layout.note}`}`;
  const rulesOf = (hooked: boolean) =>
    rulesByChain.flatMap((its, index) => ((layout.chains[index]?.hook !== undefined) === hooked ? its : []));
  const begin = [newTable(layout, mark), ...chains, ...sets, ...rulesOf(false)];
  return { mark, begin, end: rulesOf(true), rules };
}

/** The messages that add a chain to a table that is there, with its rules. */
export function encodeChain(layout: NftLayout, chain: NftChain): NetlinkMessage[] {
  return [newChain(layout, chain), ...encodeChainRules(layout, chain, 1)];
}

/** By chain. */
function encodeRules(layout: NftLayout): NetlinkMessage[][] {
  let setId = layout.sets.length + 1;
  return layout.chains.map((chain) => {
    const messages = encodeChainRules(layout, chain, setId);
    setId += messages.filter(({ type }) => type === message.NEWSET).length;
    return messages;
  });
}

function encodeChainRules(layout: NftLayout, chain: NftChain, firstSetId: number): NetlinkMessage[] {
  let setId = firstSetId;
  return chain.rules.flatMap((rule) => {
    const first = setId;
    const sets = rule.expressions.flatMap((expression) =>
      expression.kind === 'one of' ? newAnonymousSet(layout, expression, setId++) : [],
    );
    return [...sets, newRule(layout, chain.name, rule, first)];
  });
}
