import { existsSync } from 'node:fs';
import { type Family, families } from '../../core/address.ts';
import { openLane } from '../../kernel/lane.ts';
import { ForeignChanges, openNftSocket } from '../../kernel/nftables.ts';
import type { Backend, SyncResult, Views } from '../backend.ts';
import type { ConnectionCounts } from '../counters.ts';
import type { NodeFacts, ProxyPolicy } from '../policy.ts';
import { FamilyTable } from './family.ts';

export interface NftablesOptions {
  readonly policy: ProxyPolicy;
  /** Until `updateNode` says otherwise. Default: node ports nowhere, networks of services unknown. */
  readonly facts?: NodeFacts | undefined;
  /** The kernel counts the connections of each frontend, for `connections`. Default false. */
  readonly counters?: boolean | undefined;
  /** Told when the kernel refused a change and the table is made anew. */
  readonly onRefused?: ((error: Error) => void) | undefined;
  /** The node's network namespace; else that of the process. Not kept. */
  readonly namespaceFd?: number | undefined;
  /** Default: both, or IPv4 alone where the kernel runs without IPv6. */
  readonly families?: readonly Family[] | undefined;
}

/** The services as one nftables table for each family. Throws KernelError where nftables cannot be reached. */
export function openNftables(options: NftablesOptions): NftablesBackend {
  using stack = new DisposableStack();
  const inside = options.namespaceFd === undefined ? {} : { namespaceFd: options.namespaceFd };
  const socket = stack.use(openNftSocket(inside));
  // Changes are short, and go the short way; what is read may be long.
  const lane = stack.use(openLane());
  const reader = stack.use(openNftSocket({ ...inside, lane }));
  const { families: wanted = supportedFamilies(), onRefused } = options;
  const { policy, facts = nowhere, counters } = options;
  const tables = wanted.map((family) => {
    return new FamilyTable(family, { socket, reader }, { policy, facts, onRefused, counters });
  });
  return new NftablesBackend(tables, new ForeignChanges(socket), stack.move());
}

const nowhere: NodeFacts = { nodePortIps: { 4: [], 6: [] }, serviceCidrs: [] };

function supportedFamilies(): readonly Family[] {
  return existsSync('/proc/net/if_inet6') ? families : [4];
}

export class NftablesBackend implements Backend {
  readonly name = 'nftables';
  /** All zero without `counters`. */
  readonly connections: ConnectionCounts;
  readonly #tables: readonly FamilyTable[];
  readonly #foreign: ForeignChanges;
  readonly #stack: DisposableStack;

  constructor(tables: readonly FamilyTable[], foreign: ForeignChanges, stack: DisposableStack) {
    this.#tables = tables;
    this.#foreign = foreign;
    this.#stack = stack;
    this.connections = connectionsOf(tables);
  }

  async replace(views: Views): Promise<SyncResult> {
    await this.#foreign.mark();
    // All at once: the kernel is at work on one family while the other comes together. All come to their end.
    const results = await Promise.allSettled(this.#tables.map((table) => table.replace(views)));
    return sum(results.map(resultOf));
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
    return sum(results);
  }

  isDisturbed(): Promise<boolean> {
    return this.#foreign.any();
  }

  problems(): ReadonlyMap<string, string> {
    return new Map(this.#tables.flatMap(({ problems }) => [...problems]));
  }

  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }
}

function resultOf<T>(result: PromiseSettledResult<T>): T {
  if (result.status === 'rejected') throw result.reason;
  return result.value;
}

function sum(results: readonly SyncResult[]): SyncResult {
  return {
    writes: results.reduce((all, { writes }) => all + writes, 0),
    failures: results.flatMap(({ failures }) => failures),
  };
}

function connectionsOf(tables: readonly FamilyTable[]): ConnectionCounts {
  const byFamily = new Map(tables.map((table) => [table.family, table]));
  return {
    async read() {
      for (const table of tables) await table.readConnections();
    },
    to: (family, frontend, protocol) => byFamily.get(family)?.connectionsTo(frontend, protocol) ?? 0,
    forgetUnwanted() {
      for (const table of tables) table.forgetConnections();
    },
  };
}
