import { setTimeout as sleep } from 'node:timers/promises';
import { isMissing, type KernelError } from './errors.ts';
import { encodeLink } from './netlink/route/link.ts';
import { RTM_DELLINK } from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/** Links deleted by one request: more of them at once make others wait noticeably for the kernel's lock. */
export const reapLinksMax = 50;
/** A marked link waits this long for others to be deleted with. */
export const reapDelayMs = 50;
/** Group numbers of ours begin here ("FL"); the numbers go round. */
export const reapGroupBase = 0x464c_0000;
const reapGroups = 0x1_0000;
const attemptsMax = 5;
const retryDelayMs = 200;

/** Whether a link of this group was taken out of service. */
export function isReapGroup(group: number | undefined): boolean {
  return group !== undefined && group >= reapGroupBase && group < reapGroupBase + reapGroups;
}

interface Batch {
  readonly group: number;
  readonly names: Set<string>;
  /** Marks on their way; the batch is deleted after them. */
  readonly marks: Promise<unknown>[];
  readonly timer: NodeJS.Timeout;
}

/**
 * Deletes links that were taken out of service, in batches by their group number. The kernel waits about 16 ms
 * in each deletion, for one link or for fifty, so this has a socket on a thread of its own.
 */
export class LinkReaper {
  readonly #socket: NetlinkSocket;
  readonly #onFailure: (error: KernelError) => void;
  #next = 0;
  #open: Batch | undefined;
  readonly #running = new Map<Batch, Promise<void>>();

  constructor(socket: NetlinkSocket, onFailure: (error: KernelError) => void) {
    this.#socket = socket;
    this.#onFailure = onFailure;
  }

  /** Marks a link with `mark(group)`, and deletes what has that group a little later. Resolves once marked. */
  async reap<T>(name: string, mark: (group: number) => Promise<T>): Promise<T> {
    const batch = this.#join(name);
    const marked = mark(batch.group);
    batch.marks.push(marked);
    if (batch.names.size >= reapLinksMax) this.#close();
    return await marked;
  }

  /** Whether a link of this name is marked and may be there still. */
  isReaping(name: string): boolean {
    if (this.#open?.names.has(name)) return true;
    return [...this.#running.keys()].some((batch) => batch.names.has(name));
  }

  /** Resolves when every link marked so far is gone. */
  async flush(): Promise<void> {
    this.#close();
    await Promise.all(this.#running.values());
  }

  #join(name: string): Batch {
    const batch = this.#open ?? this.#begin();
    batch.names.add(name);
    return batch;
  }

  #begin(): Batch {
    const group = reapGroupBase + this.#next;
    this.#next = (this.#next + 1) % reapGroups;
    const timer = setTimeout(() => this.#close(), reapDelayMs);
    this.#open = { group, names: new Set(), marks: [], timer };
    return this.#open;
  }

  #close(): void {
    const batch = this.#open;
    if (batch === undefined) return;
    this.#open = undefined;
    clearTimeout(batch.timer);
    const done = this.#delete(batch).finally(() => this.#running.delete(batch));
    this.#running.set(batch, done);
  }

  async #delete(batch: Batch): Promise<void> {
    await Promise.allSettled(batch.marks);
    for (let attempt = 1; ; attempt += 1) {
      const [error] = await this.#socket.submit([deleteGroupMessage(batch.group)]);
      if (error === undefined || isMissing(error)) return;
      if (attempt === attemptsMax) return this.#onFailure(error);
      await sleep(retryDelayMs * attempt);
    }
  }
}

function deleteGroupMessage(group: number) {
  return {
    type: RTM_DELLINK,
    flags: 0,
    payload: encodeLink({ group }),
    operation: `RTM_DELLINK group ${group}`,
  };
}
