import { isMissing } from './errors.ts';
import { decodeChainUses, decodeTable, decodeTableHandle } from './netlink/nftables/messages.ts';
import { getChain, getElement, getTable } from './netlink/nftables/requests.ts';
import type { NftElement, NftLayout } from './netlink/nftables/spec.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/**
 * Tells by a few short messages, whatever the size of a table and however often others change their own, that somebody
 * took away much of it: the table, or what puts it in force, or all elements of a set. Smaller harm it does not see.
 */
export class TableGlance {
  readonly #socket: NetlinkSocket;
  readonly #layout: NftLayout;
  #handle: bigint | undefined;
  #timesMade: number | undefined;

  constructor(socket: NetlinkSocket, layout: NftLayout) {
    this.#socket = socket;
    this.#layout = layout;
  }

  /** Everything was just read: it is as it should be, whoever made it. */
  forget(): void {
    this.#handle = undefined;
  }

  /** `timesMade` says how often we made it; `samples` are elements that must be there, of sets without ranges. */
  async isDamaged(timesMade: number, samples: readonly NftElement[]): Promise<boolean> {
    if (timesMade !== this.#timesMade) this.forget();
    this.#timesMade = timesMade;
    try {
      return !((await this.#isSameTable()) && (await this.#isInForce()) && (await this.#hasAll(samples)));
    } catch (error) {
      if (isMissing(error)) return true;
      throw error;
    }
  }

  async #isSameTable(): Promise<boolean> {
    const [table] = await this.#socket.request(getTable(this.#layout));
    if (table === undefined) return false;
    const handle = decodeTableHandle(table);
    this.#handle ??= handle;
    return handle === this.#handle && decodeTable(table).flags === 0;
  }

  /** Nothing leads to chains with hooks but the kernel: what counts there are rules. */
  async #isInForce(): Promise<boolean> {
    for (const { name, hook, rules } of this.#layout.chains) {
      if (hook === undefined) continue;
      const [chain] = await this.#socket.request(getChain(this.#layout, name));
      if (chain === undefined || decodeChainUses(chain) < rules.length) return false;
    }
    return true;
  }

  async #hasAll(samples: readonly NftElement[]): Promise<boolean> {
    for (const { set, key } of samples) await this.#socket.request(getElement(this.#layout, set, key));
    return true;
  }
}
