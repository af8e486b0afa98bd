import type { Family } from '../../core/address.ts';
import {
  type AddressSpan,
  commonSpans,
  everySpan,
  joinSpans,
  otherSpans,
  parseSpan,
} from './address-spans.ts';

/*
 * Conditions of host ports in the words of nft, as people write them for the reference plugin's nftables backend, which
 * puts them before its own rule. Here they are elements of the sets of `nft-layout.ts`, so only what these have a place
 * for can be said.
 */

/** What the first packet of a connection must be like, for it to go to the pod. */
export interface PortConditions {
  readonly destinations: readonly AddressSpan[];
  readonly sources: readonly AddressSpan[];
  /** Names of the links that it comes by. */
  readonly links: Choice<string>;
  readonly marks: Choice<number>;
}

/** Which values may be: these only, or all but these. */
export interface Choice<T> {
  readonly only?: readonly T[] | undefined;
  readonly but: readonly T[];
}

type Match =
  | { readonly kind: 'saddr' | 'daddr'; readonly spans: readonly AddressSpan[] }
  | { readonly kind: 'link'; readonly isNot: boolean; readonly values: readonly string[] }
  | { readonly kind: 'mark'; readonly isNot: boolean; readonly values: readonly number[] }
  /** Whatever goes to a host port is for the node itself. */
  | { readonly kind: 'local' };

/** What can be said of a packet, longest first. */
const selectors: readonly (readonly [words: string, kind: Match['kind'], family?: Family])[] = [
  ['fib daddr type', 'local'],
  ['ip saddr', 'saddr', 4],
  ['ip daddr', 'daddr', 4],
  ['ip6 saddr', 'saddr', 6],
  ['ip6 daddr', 'daddr', 6],
  ['meta iifname', 'link'],
  ['meta iif', 'link'],
  ['meta mark', 'mark'],
  ['iifname', 'link'],
  ['iif', 'link'],
  ['mark', 'mark'],
];

/**
 * Reads the words of one family, all of which must hold. A text says what is wrong. Sets (`{ a, b }`), ranges and
 * prefixes of addresses, `!=` and `==` are known.
 */
export function parsePortConditions(words: readonly string[], family: Family): PortConditions | string {
  const tokens = new Tokens(words.join(' '));
  const matches: Match[] = [];
  while (!tokens.isAtEnd) {
    const match = readMatch(tokens, family);
    if (typeof match === 'string') return match;
    matches.push(match);
  }
  return {
    destinations: spansOf(matches, 'daddr', family),
    sources: spansOf(matches, 'saddr', family),
    links: choiceOf(matches.flatMap((match) => (match.kind === 'link' ? [match] : []))),
    marks: choiceOf(matches.flatMap((match) => (match.kind === 'mark' ? [match] : []))),
  };
}

class Tokens {
  readonly #tokens: readonly string[];
  #at = 0;

  constructor(text: string) {
    this.#tokens = text.match(/"[^"]*"|[{},]|[!=]=|[^\s{},"!=]+|[^\s]/g) ?? [];
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#tokens.length;
  }

  /** The next one, which is passed. */
  take(): string {
    this.#at += 1;
    return this.#tokens[this.#at - 1] ?? '';
  }

  /** Passes these words if they come next. */
  takeWords(words: string): boolean {
    const list = words.split(' ');
    const isNext = list.every((word, index) => this.#tokens[this.#at + index] === word);
    if (isNext) this.#at += list.length;
    return isNext;
  }

  /** For a message. */
  get next(): string {
    return this.isAtEnd ? 'the end' : JSON.stringify(this.#tokens[this.#at]);
  }
}

function readMatch(tokens: Tokens, family: Family): Match | string {
  const possible = selectors.filter(([, , only = family]) => only === family);
  const found = possible.find(([words]) => tokens.takeWords(words));
  if (found === undefined) {
    const names = possible.map(([words]) => words).filter((words) => !words.startsWith('meta '));
    const text = names.map((name) => (name === 'fib daddr type' ? `${name} local` : name)).join(', ');
    return `${tokens.next} cannot begin a condition of a host port; possible are ${text}, with != or a set { … }`;
  }
  const [words, kind] = found;
  const isNot = tokens.takeWords('!=') || tokens.takeWords('ne');
  if (!isNot && !tokens.takeWords('==')) tokens.takeWords('eq');
  const texts = readValues(tokens);
  if (typeof texts === 'string') return `${words}: ${texts}`;
  const match = matchOf(kind, isNot, texts, family);
  return typeof match === 'string' ? `${words}: ${match}` : match;
}

/** One value or a set of some. */
function readValues(tokens: Tokens): readonly string[] | string {
  if (!tokens.takeWords('{')) return tokens.isAtEnd ? 'a value is missing' : [tokens.take()];
  const values: string[] = [];
  do {
    if (tokens.takeWords('}')) return values;
    if (tokens.isAtEnd) break;
    values.push(tokens.take());
  } while (tokens.takeWords(','));
  return tokens.takeWords('}') ? values : `a set ends with }, not with ${tokens.next}`;
}

function matchOf(
  kind: Match['kind'],
  isNot: boolean,
  texts: readonly string[],
  family: Family,
): Match | string {
  if (texts.length === 0) return 'a set must have a value';
  if (kind === 'local') {
    const isLocal = !isNot && texts.length === 1 && texts[0] === 'local';
    return isLocal ? { kind } : 'only "local" is possible: all that goes to a host port is';
  }
  const bad = (text: string, what: string) => `${JSON.stringify(text)} is no ${what}`;
  if (kind === 'saddr' || kind === 'daddr') {
    const spans: AddressSpan[] = [];
    for (const text of texts) {
      const span = parseSpan(text, family);
      if (span === undefined) return bad(text, `IPv${family} address, network or range`);
      spans.push(span);
    }
    return { kind, spans: isNot ? otherSpans(spans, family) : joinSpans(spans) };
  }
  if (kind === 'mark') {
    const wrong = texts.find((text) => !isMark(text));
    return wrong === undefined ? { kind, isNot, values: texts.map(Number) } : bad(wrong, 'mark');
  }
  const values = texts.map((text) => text.replace(/^"(.*)"$/, '$1'));
  const wrong = values.find((name) => !isLinkName(name));
  return wrong === undefined ? { kind, isNot, values } : bad(wrong, 'whole name of a link');
}

const markMost = 0xffffffff;

function isMark(text: string): boolean {
  return /^(0x[\da-f]+|\d+)$/i.test(text) && Number(text) <= markMost;
}

const linkNameBytesMax = 15;

/** With a * at its end it would be the beginning of names. */
function isLinkName(name: string): boolean {
  const bytes = Buffer.byteLength(name);
  return bytes > 0 && bytes <= linkNameBytesMax && /^[^\s/:*{}]+$/.test(name);
}

function spansOf(matches: readonly Match[], kind: 'saddr' | 'daddr', family: Family): AddressSpan[] {
  return matches.reduce<AddressSpan[]>(
    (spans, match) => (match.kind === kind ? commonSpans(spans, match.spans) : spans),
    [everySpan(family)],
  );
}

function choiceOf<T>(
  matches: readonly { readonly isNot: boolean; readonly values: readonly T[] }[],
): Choice<T> {
  const but = new Set(matches.flatMap(({ isNot, values }) => (isNot ? values : [])));
  const [first, ...more] = matches.filter(({ isNot }) => !isNot);
  if (first === undefined) return { but: [...but] };
  const only = new Set(first.values.filter((value) => more.every(({ values }) => values.includes(value))));
  return { only: [...only].filter((value) => !but.has(value)), but: [] };
}
