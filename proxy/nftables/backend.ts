import { existsSync } from 'node:fs';
import { type Family, families } from '../../core/address.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { openNftSocket, readGeneration } from '../../kernel/nftables.ts';
import type { Backend, SyncResult, Views } from '../backend.ts';
import type { NodeFacts } from '../policy.ts';
import { type FamilyOptions, FamilyTable } from './family.ts';

export interface NftablesOptions extends FamilyOptions {
  /** The node's network namespace; else that of the process. Not kept. */
  readonly namespaceFd?: number;
  /** Default: both, or IPv4 alone where the kernel runs without IPv6. */
  readonly families?: readonly Family[];
}

/** The services as one nftables table for each family. Throws KernelError where nftables cannot be reached. */
export function openNftables(options: NftablesOptions): Backend {
  const { namespaceFd, families: wanted = supportedFamilies() } = options;
  const socket = openNftSocket(namespaceFd === undefined ? {} : { namespaceFd });
  return new NftablesBackend(
    socket,
    wanted.map((family) => new FamilyTable(family, socket, options)),
  );
}

function supportedFamilies(): readonly Family[] {
  return existsSync('/proc/net/if_inet6') ? families : [4];
}

class NftablesBackend implements Backend {
  readonly name = 'nftables';
  readonly #socket: NetlinkSocket;
  readonly #tables: readonly FamilyTable[];
  /** What the kernel's counter of transactions must say if all since the last full pass were ours. */
  #generation: number | undefined;

  constructor(socket: NetlinkSocket, tables: readonly FamilyTable[]) {
    this.#socket = socket;
    this.#tables = tables;
  }

  async replace(views: Views): Promise<SyncResult> {
    this.#generation = await readGeneration(this.#socket);
    return await this.#each((table) => table.replace(views));
  }

  async update(changed: Views): Promise<SyncResult> {
    return await this.#each((table) => table.update(changed));
  }

  async updateNode(facts: NodeFacts): Promise<SyncResult> {
    return await this.#each((table) => table.updateNode(facts));
  }

  async #each(sync: (table: FamilyTable) => Promise<SyncResult>): Promise<SyncResult> {
    const results: SyncResult[] = [];
    for (const table of this.#tables) results.push(await sync(table));
    const transactions = results.filter(({ writes }) => writes > 0).length;
    if (this.#generation !== undefined) this.#generation += transactions;
    return {
      writes: results.reduce((sum, { writes }) => sum + writes, 0),
      failures: results.flatMap(({ failures }) => failures),
    };
  }

  async isDisturbed(): Promise<boolean> {
    return this.#generation !== (await readGeneration(this.#socket));
  }

  problems(): ReadonlyMap<string, string> {
    return new Map(this.#tables.flatMap(({ problems }) => [...problems]));
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}
