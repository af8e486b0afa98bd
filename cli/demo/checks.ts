import { setTimeout as sleep } from 'node:timers/promises';
import type { Outcome } from '../cluster/workload.ts';

const RETRY_MS = 20;

/** One line of the demo's table. */
export interface Check {
  readonly section: string;
  readonly what: string;
  readonly ok: boolean;
  /** Who answered, or what went wrong. */
  readonly answer: string;
  readonly ms: number;
}

/** Collects what was tried, printing each line as it comes. */
export class Report {
  readonly checks: Check[] = [];
  readonly #print: (text: string) => void;
  #section = '';

  constructor(print: (text: string) => void) {
    this.#print = print;
  }

  section(title: string): void {
    this.#section = title;
    this.#print(`\n${title}\n`);
  }

  add(check: Omit<Check, 'section'>): void {
    this.checks.push({ section: this.#section, ...check });
    const mark = check.ok ? 'ok  ' : 'FAIL';
    this.#print(`  ${mark}  ${check.what.padEnd(46)}  ${check.answer.padEnd(44)}  ${formatMs(check.ms)}\n`);
  }

  /** Tries once more within `patienceMs` while it fails: what has just been changed may take a moment. */
  async expect(what: string, ask: () => Promise<Outcome>, expected: Expectation = {}): Promise<Outcome> {
    const deadline = performance.now() + (expected.patienceMs ?? 0);
    let outcome = await ask();
    while (judge(outcome, expected) !== undefined && performance.now() < deadline) {
      await sleep(RETRY_MS); // a refusal comes at once, and the loop has others to serve
      outcome = await ask();
    }
    const problem = judge(outcome, expected);
    const answer = outcome.ok
      ? outcome.answer
        ? `${outcome.answer.name}, which saw ${outcome.answer.peer}`
        : 'all bytes came back'
      : outcome.error;
    this.add({ what, ok: problem === undefined, answer: problem ?? answer, ms: outcome.ms });
    return outcome;
  }

  get failed(): number {
    return this.checks.filter((check) => !check.ok).length;
  }
}

export interface Expectation {
  /** Names of the servers that may answer. */
  readonly servers?: readonly string[];
  /** The address that the server must have seen the call come from. */
  readonly seenFrom?: readonly string[];
  /** The error that must come, such as ECONNREFUSED. */
  readonly error?: string;
  readonly patienceMs?: number;
}

/** What is wrong with an outcome; undefined when it is as expected. */
function judge(outcome: Outcome, { servers, seenFrom, error }: Expectation): string | undefined {
  if (!outcome.ok) return outcome.error === error ? undefined : outcome.error;
  if (error !== undefined) return `answered, but ${error} was expected`;
  const { answer } = outcome;
  if (servers && !servers.includes(answer?.name ?? ''))
    return `${answer?.name} answered, not ${servers.join(' or ')}`;
  if (seenFrom && !seenFrom.includes(answer?.peer ?? '')) {
    return `${answer?.name} saw ${answer?.peer}, not ${seenFrom.join(' or ')}`;
  }
  return undefined;
}

export function formatMs(ms: number): string {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
