import type { Family } from '../../core/address.ts';
import { enterWords, isNotFound, type ProgramEnd, runProgram } from '../../kernel/program.ts';
import type { TableName } from './rule.ts';

/** The two kinds of iptables: rules of nf_tables, or those of the kernel's older x_tables. */
export type Variant = 'nft' | 'legacy';

export interface ProgramOptions {
  /** The node's network namespace; else that of the process. Must stay open. */
  readonly namespaceFd?: number | undefined;
  /** Undefined: whatever the host calls `iptables`. */
  readonly variant?: Variant | undefined;
}

/** Another program may hold the lock of the legacy kind. */
const LOCK_WAIT_SECONDS = 5;
/** To this comes time for each line: the nft kind takes 0.2 ms for one, and more in long tables. */
const TIMEOUT_MS = 60_000;
const LINE_MS = 2;
const CHECK_TIMEOUT_MS = 10_000;

/** A program of iptables did not do as told. */
export class IptablesError extends Error {
  override readonly name = 'IptablesError';
  /** ENOENT: there is no such program. */
  readonly code: string | undefined;
  /** The line of the input that it stopped at. */
  readonly line: string | undefined;

  constructor(
    message: string,
    { code, line }: { code?: string | undefined; line?: string | undefined } = {},
  ) {
    super(message);
    this.code = code;
    this.line = line;
  }
}

/** What is done through them. */
export type Programs = Pick<IptablesPrograms, 'save' | 'restore' | 'hasRules' | 'check' | 'kind'>;

/** The programs of one kind in one namespace. */
export class IptablesPrograms {
  readonly #namespaceFd: number | undefined;
  readonly #variant: Variant | undefined;
  #kind: Variant | undefined;

  constructor({ namespaceFd, variant }: ProgramOptions) {
    this.#namespaceFd = namespaceFd;
    this.#variant = variant;
    this.#kind = variant;
  }

  /** All tables of a family as text. Throws IptablesError. */
  async save(family: Family): Promise<string> {
    const { stdout } = await this.#run([this.#name(family, '-save')], '', TIMEOUT_MS);
    return stdout;
  }

  /** Each table of the input is done as a whole or not at all. Throws IptablesError. */
  async restore(family: Family, input: string): Promise<void> {
    const words = [this.#name(family, '-restore'), '--noflush', '-w', `${LOCK_WAIT_SECONDS}`];
    await this.#run(words, input, TIMEOUT_MS + LINE_MS * linesOf(input));
  }

  /** Whether the chain is there and has a rule in it; undefined when that cannot be told. */
  async hasRules(family: Family, table: TableName, chain: string): Promise<boolean | undefined> {
    const words = [this.#name(family, ''), '-w', `${LOCK_WAIT_SECONDS}`, '-t', table, '-S', chain];
    try {
      return (await this.#run(words, '', CHECK_TIMEOUT_MS)).stdout.includes(`-A ${chain} `);
    } catch (error) {
      return error instanceof IptablesError && error.code === '1' ? false : undefined;
    }
  }

  /** Whether there is a program for the family, and the kernel has the table. Throws IptablesError. */
  async check(family: Family, table: TableName): Promise<void> {
    const words = [this.#name(family, ''), '-w', `${LOCK_WAIT_SECONDS}`, '-t', table, '-S', 'OUTPUT'];
    await this.#run(words, '', CHECK_TIMEOUT_MS);
  }

  /** Which kind these programs are. Throws IptablesError. */
  async kind(): Promise<Variant> {
    if (this.#kind !== undefined) return this.#kind;
    const { stdout } = await this.#run([this.#name(4, ''), '--version'], '', CHECK_TIMEOUT_MS);
    // Before 1.8 there was one kind, and nothing said so.
    this.#kind = stdout.includes('nf_tables') ? 'nft' : 'legacy';
    return this.#kind;
  }

  #name(family: Family, what: '' | '-save' | '-restore'): string {
    const kind = this.#variant === undefined ? '' : `-${this.#variant}`;
    return `${family === 4 ? 'iptables' : 'ip6tables'}${kind}${what}`;
  }

  async #run(words: readonly string[], input: string, timeoutMs: number): Promise<{ stdout: string }> {
    const end = await runProgram(words, { input, timeoutMs, enter: enterWords(this.#namespaceFd) });
    if (end.code === '0') return end;
    throw errorOf(words[0] ?? '', end, input);
  }
}

function linesOf(text: string): number {
  let count = 0;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) count += 1;
  return count;
}

/** What the program said, and the line that it said it of. */
function errorOf(program: string, end: ProgramEnd, input: string): IptablesError {
  const { code, stderr } = end;
  if (isNotFound(end)) return new IptablesError(`${program}: there is no such program`, { code: 'ENOENT' });
  if (code === 'SIGKILL') return new IptablesError(`${program}: no answer in time`, { code });
  const said = stderr
    .split('\n')
    .map((line) => line.replace(/^\S+( v[\d.]+ \(\w+\))?: ?/, '').trim())
    .filter((line) => line !== '' && !/^(#|Try `)/.test(line));
  const number = /line:? (\d+)/i.exec(stderr)?.[1];
  const line = number === undefined ? undefined : input.split('\n')[Number(number) - 1];
  const at = line === undefined ? '' : ` (line ${number}: ${JSON.stringify(line)})`;
  return new IptablesError(`${program}: ${said[0] ?? `ended with ${code}`}${at}`, { code, line });
}
