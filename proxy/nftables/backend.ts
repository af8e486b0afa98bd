import { type Family, families } from '../../core/address.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { openNftSocket, readGeneration } from '../../kernel/nftables.ts';
import type { Backend, SyncResult, Views } from '../backend.ts';
import { FamilyTable, type NodeFacts } from './family.ts';

export interface NftablesOptions extends NodeFacts {
  /** The node's network namespace; else that of the process. Not kept. */
  readonly namespaceFd?: number;
  /** Default both. */
  readonly families?: readonly Family[];
}

/** The services as one nftables table for each family. Throws KernelError where nftables cannot be reached. */
export function openNftables(options: NftablesOptions): Backend {
  const { namespaceFd, families: wanted = families } = options;
  const socket = openNftSocket(namespaceFd === undefined ? {} : { namespaceFd });
  return new NftablesBackend(
    socket,
    wanted.map((family) => new FamilyTable(family, socket, options)),
  );
}

class NftablesBackend implements Backend {
  readonly #socket: NetlinkSocket;
  readonly #tables: readonly FamilyTable[];
  /** That of our last transaction, if nobody came between. */
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

  /** Each write is one transaction of its table, and each transaction adds one to the generation. */
  async #each(sync: (table: FamilyTable) => Promise<SyncResult>): Promise<SyncResult> {
    const results: SyncResult[] = [];
    for (const table of this.#tables) results.push(await sync(table));
    const transactions = results.filter(({ writes }) => writes > 0).length;
    if (transactions > 0 && this.#generation !== undefined) {
      const now = await readGeneration(this.#socket);
      this.#generation = now === this.#generation + transactions ? now : undefined;
    }
    return {
      writes: results.reduce((sum, { writes }) => sum + writes, 0),
      failures: results.flatMap(({ failures }) => failures),
    };
  }

  async isDisturbed(): Promise<boolean> {
    return this.#generation === undefined || this.#generation !== (await readGeneration(this.#socket));
  }

  problems(): ReadonlyMap<string, string> {
    return new Map(this.#tables.flatMap(({ problems }) => [...problems]));
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}
