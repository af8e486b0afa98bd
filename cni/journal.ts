import {
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs';

/** Nothing is compacted before the file has this many bytes more than after the last time. */
export const journalSlackBytes = 1 << 20;

export type JournalVersion = 1 | 2;
/** What is written; the one before is read too. */
const newestVersion: JournalVersion = 2;

/** What the file must begin with to be read at all. */
interface Header {
  readonly journal: 'fairlead-leases';
  /** 1: one attachment a record. 2: one part of an attachment a record. */
  readonly version: JournalVersion;
  /** The kernel's boot id: pods, links and leases of another boot are gone. */
  readonly boot: string;
}

export interface JournalContent {
  readonly version: JournalVersion;
  readonly records: readonly unknown[];
}

/** The file is not what this program writes; nothing in it was touched. */
export class JournalError extends Error {
  override readonly name = 'JournalError';
}

/**
 * The lines that are to be replayed: none when the file is missing, empty or of another boot. A last line that
 * was cut short by the end of the writer does not count; a bad line before it throws {@link JournalError}.
 */
export function parseJournal(text: string, boot: string, path: string): JournalContent {
  const end = text.lastIndexOf('\n');
  if (end < 0) return { version: newestVersion, records: [] };
  const [header, ...records] = text
    .slice(0, end)
    .split('\n')
    .map((line, index) => parseLine(line, index, path));
  const { journal, version, boot: then } = (header ?? {}) as Partial<Header>;
  if (journal !== 'fairlead-leases') throw new JournalError(`${path}:1: no journal of leases`);
  if (version !== 1 && version !== 2) {
    throw new JournalError(`${path}:1: version ${JSON.stringify(version)} of the journal is not known`);
  }
  return { version, records: then === boot ? records : [] };
}

function parseLine(line: string, index: number, path: string): unknown {
  try {
    return JSON.parse(line);
  } catch (error) {
    throw new JournalError(`${path}:${index + 1}: ${(error as Error).message}`);
  }
}

/**
 * An append-only file of JSON lines. {@link append} has reached the kernel when it returns, so it survives the
 * end of the process. A crash of the kernel ends the pods and their leases too.
 */
export class Journal implements Disposable {
  readonly #path: string;
  readonly #header: Header;
  #fd: number | undefined;
  #bytes = 0;
  #compactAboveBytes = 0;

  private constructor(path: string, boot: string) {
    this.#path = path;
    this.#header = { journal: 'fairlead-leases', version: newestVersion, boot };
  }

  /** Reads what there is. Call {@link compact} before the first {@link append}. */
  static open(path: string, boot: string): JournalContent & { readonly journal: Journal } {
    return { journal: new Journal(path, boot), ...parseJournal(readIfThere(path), boot, path) };
  }

  /** Whether so much was appended that {@link compact} is worth its time. */
  get isLong(): boolean {
    return this.#bytes > this.#compactAboveBytes;
  }

  /** Replaces the whole content at once: temporary file, rename. */
  compact(records: Iterable<unknown>): void {
    this.#compactAboveBytes = this.#bytes + journalSlackBytes;
    const text = [this.#header, ...records].map((record) => `${JSON.stringify(record)}\n`).join('');
    const temporary = `${this.#path}.new`;
    writeFileSync(temporary, text, { mode: 0o600 });
    const fd = openSync(temporary, 'a');
    try {
      renameSync(temporary, this.#path);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this[Symbol.dispose]();
    this.#fd = fd;
    this.#bytes = Buffer.byteLength(text);
    this.#compactAboveBytes = this.#bytes * 2 + journalSlackBytes;
  }

  /** Writes one line or, when that fails (file system full), none of it, and throws. */
  append(record: unknown): void {
    if (this.#fd === undefined) throw new Error('the journal is not open');
    const line = Buffer.from(`${JSON.stringify(record)}\n`);
    try {
      for (let at = 0; at < line.length; ) at += writeSync(this.#fd, line, at);
    } catch (error) {
      ftruncateSync(this.#fd, this.#bytes);
      throw error;
    }
    this.#bytes += line.length;
  }

  [Symbol.dispose](): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
}
