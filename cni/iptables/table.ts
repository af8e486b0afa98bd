import { type Family, families } from '../../core/address.ts';
import { diff } from '../../core/diff.ts';
import type { Report } from '../../core/reconcile.ts';
import type { Change, Failure, Table } from '../../core/rows.ts';
import { isNotFound, type ProgramEnd, runProgram } from '../../kernel/program.ts';
import type { IptablesRow } from './layout.ts';
import { type IptablesState, parseIptablesSave, renderRemoval, renderRestore } from './rules.ts';

const programs = {
  4: { save: 'iptables-save', restore: 'iptables-restore' },
  6: { save: 'ip6tables-save', restore: 'ip6tables-restore' },
} as const satisfies Record<Family, object>;
/** Another program may hold the lock of the legacy kind. */
const lockWaitSeconds = 5;
const timeoutMs = 10_000;

export interface IptablesTableOptions {
  /** See {@link runProgram}. */
  readonly enter?: readonly string[] | undefined;
}

/**
 * Rules of iptables in our own chains, both families. A write is one run of iptables-restore for a family, which does
 * all of a table or nothing of it; its failure is that of all the rows of the family. Hosts without iptables have no
 * rows; making some fails with what the system says about the missing program, removing some has nothing to do.
 */
export class IptablesTable implements Table<string, IptablesRow> {
  readonly name = 'iptables';
  readonly atomic = true;
  readonly #enter: readonly string[];
  #isLegacy = false;
  #last: Promise<unknown> = Promise.resolve();

  constructor({ enter = [] }: IptablesTableOptions = {}) {
    this.#enter = enter;
  }

  /** The key is made of all that the rule is, but not of the way to it. */
  same(_: IptablesRow, actual: IptablesRow): boolean {
    return actual.isCutOff !== true;
  }

  /** Of rules of the kind legacy nothing tells; see {@link IptablesState}. */
  get isUnheard(): boolean {
    return this.#isLegacy;
  }

  /** Rules that nobody wants go with the next that somebody does: reading takes programs, which need not be there. */
  readonly hasOwn = false;

  async read(): Promise<Map<string, IptablesRow>> {
    const states = await Promise.all(families.map((family) => this.#state(family)));
    return new Map(states.flatMap((state) => [...(state?.rows ?? [])]));
  }

  /**
   * As reconcile. What is wanted is asked when the rules were read, so that parts may come and go meanwhile: their own
   * changes come after these.
   */
  async repair(wanted: () => ReadonlyMap<string, IptablesRow>): Promise<Report> {
    const actual = await this.read();
    const changes = diff(wanted(), actual, (a, b) => this.same(a, b));
    const failures = changes.length === 0 ? [] : await this.write(changes);
    return { writes: changes.length, failures: failures.map((one) => ({ ...one, table: this.name })) };
  }

  /** One after the other: what a run adds depends on what it finds. */
  write(changes: readonly Change<string, IptablesRow>[]): Promise<Failure<string>[]> {
    const writing = this.#last.then(() => this.#write(changes));
    this.#last = writing.catch(() => {});
    return writing;
  }

  async #write(changes: readonly Change<string, IptablesRow>[]): Promise<Failure<string>[]> {
    const failures = families.map(async (family) => {
      const ours = changes.filter((change) => familyOfChange(change) === family);
      if (ours.length === 0) return [];
      const error = await this.#apply(family, (state) => renderRestore(ours, state));
      // Nobody can take the rules away any more; a container must be able to end.
      if (isMissing(error) && ours.every(({ kind }) => kind === 'delete')) return [];
      return error === undefined ? [] : ours.map(({ key, kind }) => ({ key, kind, error }));
    });
    return (await Promise.all(failures)).flat();
  }

  /** Takes away all that is ours: jumps, chains, rules. */
  async remove(): Promise<void> {
    for (const family of families) {
      if ((await this.#state(family)) === undefined) continue;
      const error = await this.#apply(family, renderRemoval);
      if (error !== undefined) throw error;
    }
  }

  async #apply(
    family: Family,
    render: (state: IptablesState) => string | undefined,
  ): Promise<Error | undefined> {
    try {
      const { save, restore } = programs[family];
      const input = render(this.#parse(await this.#run([save]), family));
      if (input !== undefined) await this.#run([restore, '--noflush', '-w', `${lockWaitSeconds}`], input);
      return undefined;
    } catch (error) {
      return error as Error;
    }
  }

  /** Undefined: there is no iptables. */
  async #state(family: Family): Promise<IptablesState | undefined> {
    try {
      return this.#parse(await this.#run([programs[family].save]), family);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  #parse(text: string, family: Family): IptablesState {
    const state = parseIptablesSave(text, family);
    this.#isLegacy = state.isLegacy ?? this.#isLegacy;
    return state;
  }

  async #run(words: readonly string[], input?: string): Promise<string> {
    const end = await runProgram(words, { input, timeoutMs, enter: this.#enter });
    if (end.code !== '0') throw new ProgramError(end);
    return end.stdout;
  }
}

/** What the program said, not what it was called with. */
class ProgramError extends Error {
  override readonly name = 'ProgramError';
  readonly end: ProgramEnd;

  constructor(end: ProgramEnd) {
    const said = end.stderr.trim().split('\n')[0] || `ended with ${end.code}`;
    super(`iptables: ${said}`);
    this.end = end;
  }
}

/** The program is not there. */
function isMissing(error: unknown): boolean {
  return error instanceof ProgramError && isNotFound(error.end);
}

function familyOfChange(change: Change<string, IptablesRow>): Family {
  return change.kind === 'delete' ? change.actual.family : change.wanted.family;
}
