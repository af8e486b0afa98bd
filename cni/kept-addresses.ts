import { closeSync, openSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { familyOf } from '../core/address.ts';
import type { Descriptor } from '../kernel/lane.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import type { Part } from './part.ts';

/** So long nobody was attached when the first is set, */
const quietMs = 50;
/** unless one has waited for so long. */
const waitMaxMs = 1_000;

interface Waiting {
  readonly key: string;
  readonly namespaceFd: Descriptor;
}

/**
 * Containers' IPv6 addresses stay when their interface is set down, as IPv4 addresses do by themselves. Writing a
 * parameter of a new namespace takes 0.15 ms of the loop, so it waits until nobody is being attached: no runtime sets an
 * interface down right after it got it.
 */
export class KeptAddresses implements Disposable {
  readonly #waiting: Waiting[] = [];
  #timer: NodeJS.Timeout | undefined;
  #sinceMs = 0;

  /** The part was made in this namespace, whose descriptor is the caller's. */
  note(part: Part | undefined, namespaceFd: Descriptor | undefined): void {
    const pod = part?.rows.attachment?.pod;
    if (namespaceFd === undefined || !pod?.addresses.some((address) => familyOf(address) === 6)) return;
    const key = `net/ipv6/conf/${pod.ifname}/keep_addr_on_down`;
    this.#waiting.push({ key, namespaceFd: openSync(`/proc/self/fd/${namespaceFd}`, 'r') });
    this.#wait();
  }

  #wait(): void {
    if (this.#timer === undefined) {
      this.#sinceMs = performance.now();
      this.#timer = setTimeout(() => void this.#setAll(), quietMs).unref();
    } else if (performance.now() - this.#sinceMs < waitMaxMs) this.#timer.refresh();
  }

  /** One in each turn of the loop. */
  async #setAll(): Promise<void> {
    this.#timer = undefined;
    for (const one of this.#waiting.splice(0)) {
      await setOne(one);
      await nextTurn();
    }
  }

  /** What waits is set at once. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    for (const one of this.#waiting.splice(0)) void setOne(one);
  }
}

/** Where the kernel has no such parameter, nothing is to be set. */
async function setOne({ key, namespaceFd }: Waiting): Promise<void> {
  try {
    await new SysctlTable({ keys: [key], namespaceFd }).write([{ kind: 'create', key, wanted: '1' }]);
  } finally {
    closeSync(namespaceFd);
  }
}
