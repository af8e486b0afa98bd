import { createHash } from 'node:crypto';
import type { NetlinkMessage } from '../message.ts';
import { newAnonymousSet } from './encode-elements.ts';
import { newChain, newRule, newSet, newTable } from './messages.ts';
import type { NftLayout } from './spec.ts';

/** The messages that make a layout, and the mark that the kernel keeps with it. */
export interface EncodedLayout {
  /** The table's comment: "fairlead layout", a hash of all that the layout is made of, and its note. */
  readonly mark: string;
  readonly messages: readonly NetlinkMessage[];
}

const HASH_DIGITS = 16;
const MARK = 'fairlead layout';

/** The note in a table's comment; undefined where the comment is not one of ours, empty where there is no note. */
export function noteOfMark(comment: string | undefined): string | undefined {
  const [, note] = new RegExp(`^${MARK} [0-9a-f]{${HASH_DIGITS}}(?: (.*))?$`).exec(comment ?? '') ?? [];
  return comment?.startsWith(`${MARK} `) ? (note ?? '') : undefined;
}

/** Table, chains, sets, rules: each may name only what stands before it. */
export function encodeLayout(layout: NftLayout): EncodedLayout {
  const parts = [
    ...layout.chains.map((chain) => newChain(layout, chain)),
    ...layout.sets.map((set, index) => newSet(layout, set, index + 1)),
    ...encodeRules(layout),
  ];
  const hash = createHash('sha256');
  for (const { type, payload } of [newTable(layout), ...parts]) {
    hash.update(`${type} ${payload.length} `).update(payload);
  }
  const digest = hash.digest('hex').slice(0, HASH_DIGITS);
  const mark = `${MARK} ${digest}${layout.note === undefined ? '' : ` ${layout.note}`}`;
  return { mark, messages: [newTable(layout, mark), ...parts] };
}

function encodeRules(layout: NftLayout): NetlinkMessage[] {
  let setId = layout.sets.length + 1;
  return layout.chains.flatMap((chain) =>
    chain.rules.flatMap((rule) => {
      const first = setId;
      const sets = rule.expressions.flatMap((expression) =>
        expression.kind === 'one of' ? newAnonymousSet(layout, expression, setId++) : [],
      );
      return [...sets, newRule(layout, chain.name, rule, first)];
    }),
  );
}
