import { fstatSync, statSync } from 'node:fs';
import type { Descriptor } from '../native/index.ts';
import type { KernelError } from './errors.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { batch } from './netlink/nftables/messages.ts';
import { decodeGeneration, getGeneration } from './netlink/nftables/requests.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/*
 * The kernel counts the transactions of each network namespace, whosever they are. This process counts its own: what
 * is left are those of others. So whoever keeps rows can ask, for the price of one short message, whether somebody
 * else was at them, whatever the other parts of this process write meanwhile.
 */

/** What this process did in one namespace. */
interface Ledger {
  /** Transactions that were handed to the kernel, without those that it refused. */
  begun: number;
  /** Of these, those that it has acknowledged. */
  committed: number;
  /** Those under way. */
  readonly pending: Set<Promise<unknown>>;
}

/** By namespace, for the life of the process: numbers are compared with earlier ones only. */
const ledgers = new Map<string, Ledger>();
const ledgerOfSocket = new WeakMap<NetlinkSocket, Ledger>();

/** Looks that find own transactions under way wait for them, this often. */
const ATTEMPTS_MAX = 8;

/** Says in which namespace the socket is, so that all that write there share one account. */
export function enterLedger(socket: NetlinkSocket, namespaceFd: Descriptor | undefined): void {
  const inside = namespaceFd === undefined ? statSync('/proc/self/ns/net') : fstatSync(namespaceFd);
  const key = `${inside.dev} ${inside.ino}`;
  const ledger = ledgers.get(key) ?? newLedger();
  ledgers.set(key, ledger);
  ledgerOfSocket.set(socket, ledger);
}

function ledgerOf(socket: NetlinkSocket): Ledger {
  const ledger = ledgerOfSocket.get(socket) ?? newLedger();
  ledgerOfSocket.set(socket, ledger);
  return ledger;
}

function newLedger(): Ledger {
  return { begun: 0, committed: 0, pending: new Set() };
}

/** The first error of a transaction, which then did nothing. `onAnswer` is told what messages with NLM_F_ECHO did. */
export async function commit(
  socket: NetlinkSocket,
  messages: readonly NetlinkMessage[],
  onAnswer?: (answer: NetlinkMessage) => void,
): Promise<KernelError | undefined> {
  if (messages.length === 0) return undefined;
  const ledger = ledgerOf(socket);
  ledger.begun += 1;
  const sent = socket.transaction(batch(messages), onAnswer);
  ledger.pending.add(sent);
  let isCommitted = false;
  try {
    const error = (await sent).find((outcome) => outcome !== undefined);
    isCommitted = error === undefined;
    return error;
  } finally {
    ledger.pending.delete(sent);
    if (isCommitted) ledger.committed += 1;
    else ledger.begun -= 1;
  }
}

/** The number that counts the transactions of the socket's namespace, ours and others'. */
export async function readGeneration(socket: NetlinkSocket): Promise<number> {
  const [answer] = await socket.request(getGeneration());
  return answer === undefined ? 0 : decodeGeneration(answer);
}

/** Tells whether others changed anything of nftables in the namespace of a socket from `openNftSocket`. */
export class ForeignChanges {
  readonly #socket: NetlinkSocket;
  /** Others' transactions up to the last `mark`. */
  #seen: number | undefined;

  constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  /** From now on. Call it before reading: what changes while one reads is found by the next look. */
  async mark(): Promise<void> {
    this.#seen = await this.#count();
  }

  /**
   * Whether there was a transaction of another process since `mark`, or no `mark`. When own ones never end, so that
   * nobody can tell, the answer is no, and the next look says more.
   */
  async any(): Promise<boolean> {
    if (this.#seen === undefined) return true;
    const count = await this.#count();
    return count !== undefined && count !== this.#seen;
  }

  /** Others' transactions since the namespace began, modulo 2³²; undefined when own ones are always under way. */
  async #count(): Promise<number | undefined> {
    const ledger = ledgerOf(this.#socket);
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
      const { committed } = ledger;
      const generation = await readGeneration(this.#socket);
      if (ledger.begun === committed) return (generation - committed) >>> 0;
      await Promise.allSettled([...ledger.pending]);
    }
    return undefined;
  }
}
