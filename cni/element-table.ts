import { diff } from '../core/diff.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import type { NftElement } from '../kernel/netlink/nftables/spec.ts';
import { LAYOUT_MISSING } from '../kernel/nftables.ts';

/** Work on the table: one follows the other, but writes that wait become one. */
interface Waiting {
  readonly changes: readonly Change<string, NftElement>[];
  readonly done: (failures: Failure<string>[]) => void;
}

/** What a repair found. */
export interface Repair {
  readonly writes: number;
  readonly failures: readonly Failure<string>[];
}

/**
 * A table of nftables for many writers: what they want at the same time goes in one transaction, which costs hardly
 * more than one of theirs. What is there already is not made again, and what is gone is not removed.
 */
export class ElementTable implements Table<string, NftElement> {
  readonly name: string;
  readonly #table: Table<string, NftElement>;
  /** What is there by what was read and written. */
  readonly #present = new Map<string, NftElement>();
  #isRead = false;
  #waiting: Waiting[] = [];
  #work: Promise<unknown> | undefined;

  constructor(table: Table<string, NftElement>) {
    this.name = table.name;
    this.#table = table;
  }

  same(wanted: NftElement, actual: NftElement): boolean {
    return this.#table.same(wanted, actual);
  }

  read(): Promise<Map<string, NftElement>> {
    return this.#alone(() => this.#read());
  }

  write(changes: readonly Change<string, NftElement>[]): Promise<Failure<string>[]> {
    return new Promise((done) => {
      this.#waiting.push({ changes, done });
      this.#begin();
    });
  }

  /** Makes the table hold the rows, which are asked for when it was read and while nobody writes. */
  repair(wanted: () => ReadonlyMap<string, NftElement>): Promise<Repair> {
    return this.#alone(async () => {
      const actual = await this.#read();
      const rows = wanted();
      // A table that nobody needs is not made: its chains would cost every packet.
      if (rows.size === 0 && actual.has(LAYOUT_MISSING)) return { writes: 0, failures: [] };
      // What a writer waits to do is wanted already, or not wanted any more, and nobody's damage.
      const waiting = new Set(this.#waiting.flatMap((one) => one.changes.map(({ key }) => key)));
      const changes = diff(rows, actual, (a, b) => this.same(a, b)).filter(({ key }) => !waiting.has(key));
      if (changes.length === 0) return { writes: 0, failures: [] };
      const failures = await this.#send(changes);
      return { writes: changes.length, failures };
    });
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    while (this.#work !== undefined) await this.#work;
    const working = work();
    this.#occupy(working);
    return working;
  }

  #occupy(working: Promise<unknown>): void {
    const ended = working.then(
      () => {},
      () => {},
    );
    this.#work = ended.then(() => {
      this.#work = undefined;
      this.#begin();
    });
  }

  #begin(): void {
    if (this.#work !== undefined || this.#waiting.length === 0) return;
    const batch = this.#waiting;
    this.#waiting = [];
    this.#occupy(this.#writeAll(batch));
  }

  async #writeAll(batch: readonly Waiting[]): Promise<void> {
    // Of one key the last change counts: the row of an attachment that has gone may be that of the next.
    const all = new Map(
      batch.flatMap(({ changes }) => changes.map((change) => [change.key, change] as const)),
    );
    const failures = await this.#send([...all.values()]);
    if (failures.length === 0 || batch.length === 1) {
      for (const { done } of batch) done(failures);
      return;
    }
    // One bad change made the transaction fail: each writer is served alone.
    for (const { changes, done } of batch) done(await this.#send(changes));
  }

  async #send(changes: readonly Change<string, NftElement>[]): Promise<Failure<string>[]> {
    try {
      if (!this.#isRead) await this.#read();
      const useful = changes.filter((change) => this.#isUseful(change)).map((change) => this.#adapt(change));
      if (useful.length === 0) return [];
      const failures = await this.#table.write(useful);
      const failed = new Set(failures.map(({ key }) => key));
      for (const change of useful) if (!failed.has(change.key)) this.#note(change);
      return failures;
    } catch (error) {
      return changes.map(({ key, kind }) => ({ key, kind, error: error as Error }));
    }
  }

  async #read(): Promise<Map<string, NftElement>> {
    const rows = await this.#table.read();
    this.#present.clear();
    for (const [key, row] of rows) this.#present.set(key, row);
    this.#isRead = true;
    return rows;
  }

  #isUseful(change: Change<string, NftElement>): boolean {
    const there = this.#present.get(change.key);
    if (change.kind === 'delete') return there !== undefined;
    return there === undefined || !this.same(change.wanted, there);
  }

  #adapt(change: Change<string, NftElement>): Change<string, NftElement> {
    const actual = this.#present.get(change.key);
    if (change.kind !== 'create' || actual === undefined) return change;
    return { ...change, kind: 'update', actual };
  }

  #note(change: Change<string, NftElement>): void {
    if (change.kind === 'delete') this.#present.delete(change.key);
    else this.#present.set(change.key, change.wanted);
  }
}
