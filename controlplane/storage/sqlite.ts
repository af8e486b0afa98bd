import { chmodSync, closeSync, openSync } from 'node:fs';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Log, LogWatch } from './log-watch.ts';
import { RecentEvents } from './recent.ts';
import {
  type Entry,
  type ListRange,
  type Page,
  type Storage,
  StorageError,
  type StorageEvent,
  type StorageWatch,
  type WatchBatch,
} from './storage.ts';

/** How many revisions one read of history or one step of compaction looks at. */
const STEP_REVISIONS = 1_000;

/**
 * One row per write, never changed: the row number is the revision. The newest row of a key is its current
 * state, and `previous_revision` leads to the one before, which makes a second writer of the same state
 * impossible. `compacted` only grows.
 */
const SCHEMA = `
  PRAGMA locking_mode = EXCLUSIVE;
  PRAGMA journal_mode = WAL;
  PRAGMA synchronous = NORMAL;
  CREATE TABLE IF NOT EXISTS log (
    revision INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    previous_revision INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    value TEXT NOT NULL
  );
  CREATE UNIQUE INDEX IF NOT EXISTS log_previous ON log (key, previous_revision);
  CREATE INDEX IF NOT EXISTS log_key ON log (key, revision);
  CREATE TABLE IF NOT EXISTS bounds (compacted INTEGER NOT NULL, newest INTEGER NOT NULL);
  INSERT INTO bounds SELECT 1, 1 WHERE NOT EXISTS (SELECT 1 FROM bounds);
`;

const CURRENT_AT = `deleted = 0 AND revision <= :revision AND NOT EXISTS (
  SELECT 1 FROM log AS newer
  WHERE newer.key = log.key AND newer.previous_revision = log.revision AND newer.revision <= :revision)`;

const SQL = {
  bounds: 'SELECT compacted, max(newest, (SELECT coalesce(max(revision), 1) FROM log)) AS newest FROM bounds',
  newest: 'SELECT revision, deleted, value FROM log WHERE key = ? ORDER BY revision DESC LIMIT 1',
  append: 'INSERT INTO log (revision, key, previous_revision, deleted, value) VALUES (?, ?, ?, ?, ?)',
  list: `SELECT key, revision, value FROM log WHERE key > :after AND key < :end AND ${CURRENT_AT}
    ORDER BY key LIMIT :limit`,
  count: `SELECT count(*) AS count FROM log WHERE key > :after AND key < :end AND ${CURRENT_AT}`,
  history: `SELECT log.revision, log.key, log.deleted, log.value, before.revision AS before_revision,
      before.deleted AS before_deleted, before.value AS before_value
    FROM log LEFT JOIN log AS before ON before.revision = log.previous_revision
    WHERE log.revision > :from AND log.revision <= :to AND log.key > :after AND log.key < :end
    ORDER BY log.revision`,
  dropSuperseded: `DELETE FROM log WHERE revision IN (
    SELECT previous_revision FROM log WHERE revision > :from AND revision <= :to)`,
  dropDeleted: 'DELETE FROM log WHERE revision > :from AND revision <= :to AND deleted = 1',
  compacted: 'UPDATE bounds SET compacted = :to, newest = :newest',
} as const;

/** A {@link Storage} in one file, for one process at a time; another one is refused with "database is locked". */
export class SqliteStorage implements Storage {
  readonly #database: DatabaseSync;
  readonly #statements: Readonly<Record<keyof typeof SQL, StatementSync>>;
  readonly #recent = new RecentEvents();
  readonly #watches = new Set<LogWatch>();
  readonly #toWake = new Set<LogWatch>();
  readonly #log: Log = {
    revision: () => this.#newest,
    read: (prefix, revision) => this.#read(prefix, revision),
  };
  #compacted: number;
  #newest: number;

  private constructor(database: DatabaseSync) {
    this.#database = database;
    database.exec(SCHEMA);
    const entries = Object.entries(SQL).map(([name, sql]) => [name, database.prepare(sql)]);
    this.#statements = Object.fromEntries(entries);
    const bounds = this.#statements.bounds.get() as { compacted: number; newest: number };
    this.#compacted = bounds.compacted;
    this.#newest = bounds.newest;
  }

  /** Opens or makes the file, readable by its owner only (SQLite gives its side files the same mode). */
  static open(path: string): SqliteStorage {
    closeSync(openSync(path, 'a', 0o600));
    chmodSync(path, 0o600);
    const database = new DatabaseSync(path);
    try {
      return new SqliteStorage(database);
    } catch (error) {
      database.close();
      throw new Error(`${path}: ${(error as Error).message}`, { cause: error });
    }
  }

  async revision(): Promise<number> {
    return this.#newest;
  }

  async get(key: string): Promise<Entry | undefined> {
    const row = this.#newestOf(key);
    return row === undefined || row.deleted === 1
      ? undefined
      : { key, value: row.value, revision: row.revision };
  }

  async list(prefix: string, range: ListRange = {}): Promise<Page> {
    const revision = range.revision ?? this.#newest;
    this.#checkReadable(revision);
    const bounds = { end: endOf(prefix), revision };
    const after = range.after ?? prefix;
    const limit = range.limit ?? -1;
    const entries = this.#statements.list.all({ ...bounds, after, limit }) as unknown as Entry[];
    const last = entries.at(-1);
    if (last === undefined || entries.length !== limit) return { entries, revision, remaining: 0 };
    const { count } = this.#statements.count.get({ ...bounds, after: last.key }) as { count: number };
    return { entries, revision, remaining: count };
  }

  async create(key: string, value: string): Promise<number | undefined> {
    const before = this.#newestOf(key);
    if (before !== undefined && before.deleted === 0) return undefined;
    return this.#append(key, value, before);
  }

  async update(key: string, value: string, expectedRevision: number): Promise<number | undefined> {
    const before = this.#expected(key, expectedRevision);
    return before && this.#append(key, value, before);
  }

  async delete(key: string, expectedRevision: number): Promise<number | undefined> {
    const before = this.#expected(key, expectedRevision);
    return before && this.#append(key, undefined, before);
  }

  watch(prefix: string, fromRevision: number): StorageWatch {
    this.#checkReadable(fromRevision);
    const watch = new LogWatch(this.#log, prefix, fromRevision, () => this.#watches.delete(watch));
    this.#watches.add(watch);
    return watch;
  }

  async compact(revision: number): Promise<void> {
    const target = Math.min(revision, this.#newest);
    while (this.#compacted < target && this.#database.isOpen) {
      this.#compactTo(Math.min(this.#compacted + STEP_REVISIONS, target));
      await nextTurn();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const watch of [...this.#watches]) watch[Symbol.dispose]();
    if (this.#database.isOpen) this.#database.close();
  }

  /**
   * A row that a later one up to `to` replaced goes, and so does a deletion. The value before a change that is
   * newer than `to` is never among them, so every event that can still be read has its previous value.
   */
  #compactTo(to: number): void {
    const range = { from: this.#compacted, to };
    this.#database.exec('BEGIN IMMEDIATE');
    try {
      this.#statements.dropSuperseded.run(range);
      this.#statements.dropDeleted.run(range);
      this.#statements.compacted.run({ to, newest: this.#newest });
      this.#database.exec('COMMIT');
    } catch (error) {
      this.#database.exec('ROLLBACK');
      throw error;
    }
    this.#compacted = to;
  }

  #append(key: string, value: string | undefined, before: Row | undefined): number {
    const revision = this.#newest + 1;
    const deleted = value === undefined ? 1 : 0;
    this.#statements.append.run(revision, key, before?.revision ?? 0, deleted, value ?? '');
    this.#newest = revision;
    this.#announce({ key, revision, value, previous: entryOf(before) });
    return revision;
  }

  /** Wakes the watches once for all writes of one turn of the loop. */
  #announce(event: StorageEvent): void {
    this.#recent.push(event);
    const scheduled = this.#toWake.size > 0;
    for (const watch of this.#watches) if (watch.wants(event)) this.#toWake.add(watch);
    if (!scheduled && this.#toWake.size > 0) setImmediate(() => this.#wakeAll());
  }

  #wakeAll(): void {
    for (const watch of this.#toWake) watch.wake();
    this.#toWake.clear();
  }

  #read(prefix: string, revision: number): WatchBatch {
    const recent = this.#recent.after(revision);
    if (recent !== undefined) {
      return { events: recent.filter((event) => event.key.startsWith(prefix)), revision: this.#newest };
    }
    if (revision < this.#compacted) throw new StorageError('compacted', revision, this.#compacted);
    const to = Math.min(revision + STEP_REVISIONS, this.#newest);
    const bounds = { from: revision, to, after: prefix, end: endOf(prefix) };
    const rows = this.#statements.history.all(bounds) as unknown as HistoryRow[];
    return { events: rows.map(eventOf), revision: to };
  }

  #newestOf(key: string): Row | undefined {
    return this.#statements.newest.get(key) as Row | undefined;
  }

  #expected(key: string, revision: number): Row | undefined {
    const row = this.#newestOf(key);
    return row?.deleted === 0 && row.revision === revision ? row : undefined;
  }

  #checkReadable(revision: number): void {
    if (revision < this.#compacted) throw new StorageError('compacted', revision, this.#compacted);
    if (revision > this.#newest) throw new StorageError('future', revision, this.#newest);
  }
}

interface Row {
  readonly revision: number;
  readonly deleted: 0 | 1;
  readonly value: string;
}

interface HistoryRow extends Row {
  readonly key: string;
  readonly before_revision: number | null;
  readonly before_deleted: 0 | 1 | null;
  readonly before_value: string | null;
}

function eventOf(row: HistoryRow): StorageEvent {
  const { key, revision, before_revision, before_value, before_deleted } = row;
  const value = row.deleted === 1 ? undefined : row.value;
  if (before_revision === null || before_value === null || before_deleted === null) {
    return { key, revision, value, previous: undefined };
  }
  const before = { revision: before_revision, value: before_value, deleted: before_deleted };
  return { key, revision, value, previous: entryOf(before) };
}

function entryOf(row: Row | undefined): StorageEvent['previous'] {
  return row === undefined || row.deleted === 1 ? undefined : { revision: row.revision, value: row.value };
}

/** The first text after all texts that begin with `prefix`. */
function endOf(prefix: string): string {
  return prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1);
}
