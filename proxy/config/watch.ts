import { type FSWatcher, readFileSync, watch } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { InputError } from '../../core/errors.ts';
import { Kick } from '../kick.ts';

/** A file is written in steps: what it says is asked for when it has been quiet for so long. */
const SETTLE_MS = 200;
/** File systems that tell of no changes, and watches that the kernel refuses, are looked at this often. */
const POLL_INTERVAL_MS = 5_000;

export interface FileWatchOptions {
  readonly path: string;
  /** What it says now. */
  readonly text: string;
  /** Throws InputError where the new text cannot be used. */
  readonly validate: (text: string) => void;
  /** Told once of each new text that cannot be used; the old one stays in force. */
  readonly onInvalid: (error: InputError) => void;
  readonly signal: AbortSignal;
  readonly pollIntervalMs?: number;
}

/**
 * Resolves when the file says something else, and that can be used; false when aborted before. The folder is watched
 * and the text compared: a file that is renamed into place counts, as does the link that Kubernetes swaps in the
 * volume of a ConfigMap; one that was only touched does not.
 */
export async function untilFileChanged(options: FileWatchOptions): Promise<boolean> {
  const { path, signal, pollIntervalMs = POLL_INTERVAL_MS } = options;
  const kick = new Kick();
  const watcher = watchFolder(dirname(path), () => kick.kick());
  let last = options.text;
  try {
    // Between the reading of the first text and the watch it may have changed already.
    for (let isFirst = true; !signal.aborted; isFirst = false) {
      if (!isFirst && (await kick.wait(pollIntervalMs, signal)))
        await sleep(SETTLE_MS, undefined, { signal }).catch(() => {});
      const text = readText(path);
      if (text === undefined || text === last || signal.aborted) continue;
      last = text;
      if (text !== options.text && isUsable(text, options)) return true;
    }
    return false;
  } finally {
    watcher?.close();
  }
}

function isUsable(text: string, { validate, onInvalid }: FileWatchOptions): boolean {
  try {
    validate(text);
    return true;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    onInvalid(error);
    return false;
  }
}

/** Undefined where it cannot be watched: then it is only looked at. */
function watchFolder(folder: string, onChange: () => void): FSWatcher | undefined {
  try {
    return watch(folder, onChange).on('error', () => {});
  } catch {
    return undefined;
  }
}

/** Undefined while it is away, as it is for a moment when it is replaced. */
function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
