import { existsSync } from 'node:fs';
import { type Family, families } from '../../core/address.ts';
import { KernelError } from '../../kernel/errors.ts';
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
  /** Told once of a family that is not served while the other is, and why; it is tried again at each full pass. */
  readonly onUnserved?: ((error: Error) => void) | undefined;
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
  const { families: wanted = supportedFamilies(), onRefused, onUnserved } = options;
  const { policy, facts = nowhere, counters } = options;
  const tables = wanted.map((family) => {
    return new FamilyTable(family, { socket, reader }, { policy, facts, onRefused, counters });
  });
  return new NftablesBackend(tables, new ForeignChanges(socket), { stack: stack.move(), onUnserved });
}

const nowhere: NodeFacts = { nodePortIps: { 4: [], 6: [] }, serviceCidrs: [] };

function supportedFamilies(): readonly Family[] {
  return existsSync('/proc/net/if_inet6') ? families : [4];
}

/** What the kernel says that has no nftables, or no NAT, for a family. */
const UNSUPPORTED: ReadonlySet<string> = new Set(['ENOENT', 'EOPNOTSUPP', 'EAFNOSUPPORT', 'EPROTONOSUPPORT']);

/** The table of a family, as far as the backend knows it. */
export type TableOfFamily = Pick<
  FamilyTable,
  | 'family'
  | 'problems'
  | 'replace'
  | 'update'
  | 'updateNode'
  | 'isDamaged'
  | 'readConnections'
  | 'connectionsTo'
  | 'forgetConnections'
>;

interface BackendParts extends Pick<NftablesOptions, 'onUnserved'> {
  /** Disposed with the backend. */
  readonly stack: DisposableStack;
}

export class NftablesBackend implements Backend {
  readonly name = 'nftables';
  /** All zero without `counters`. */
  readonly connections: ConnectionCounts;
  readonly #tables: readonly TableOfFamily[];
  readonly #foreign: ForeignChanges;
  readonly #stack: DisposableStack;
  readonly #onUnserved: (error: Error) => void;
  /** Tables that were once in place: what fails there is no lack of the kernel's. */
  readonly #served = new Set<TableOfFamily>();
  /** Why those are not served that were tried. */
  readonly #unserved = new Map<TableOfFamily, string>();

  constructor(
    tables: readonly TableOfFamily[],
    foreign: ForeignChanges,
    { stack, onUnserved }: BackendParts,
  ) {
    this.#tables = tables;
    this.#foreign = foreign;
    this.#stack = stack;
    this.#onUnserved = onUnserved ?? (() => {});
    this.connections = connectionsOf(tables);
  }

  async replace(views: Views): Promise<SyncResult> {
    await this.#foreign.mark();
    // All at once: the kernel is at work on one family while the other comes together. All come to their end.
    const results = await Promise.allSettled(this.#tables.map((table) => table.replace(views)));
    const errors = new Map(this.#tables.map((table, index) => [table, errorOf(results[index])]));
    for (const [table, error] of errors) if (error === undefined) this.#served.add(table);
    return sum(results.filter((_, index) => !this.#isUnserved(this.#tables[index], errors)).map(resultOf));
  }

  /** The kernel lacks something for this family, while it has it for the other: that one goes on alone. */
  #isUnserved(
    table: TableOfFamily | undefined,
    errors: ReadonlyMap<TableOfFamily, Error | undefined>,
  ): boolean {
    const error = table && errors.get(table);
    if (table === undefined || error === undefined || this.#served.has(table)) {
      if (table !== undefined) this.#unserved.delete(table);
      return false;
    }
    const isLack = error instanceof KernelError && UNSUPPORTED.has(error.code);
    if (!isLack || this.#served.size === 0) return false;
    if (this.#unserved.get(table) !== error.message) this.#onUnserved(unservedError(table.family, error));
    this.#unserved.set(table, error.message);
    return true;
  }

  /** Those of families that are not served hear of it at the next full pass. */
  async update(changed: Views): Promise<SyncResult> {
    const served = this.#tables.filter((table) => !this.#unserved.has(table));
    return await each(served, (table) => table.update(changed));
  }

  async updateNode(facts: NodeFacts): Promise<SyncResult> {
    return await each(this.#tables, async (table) => {
      const result = table.updateNode(facts);
      return this.#unserved.has(table) ? await result.catch(() => nothing).then(() => nothing) : await result;
    });
  }

  isDisturbed(): Promise<boolean> {
    return this.#foreign.any();
  }

  async isDamaged(): Promise<boolean> {
    for (const table of this.#served) if (await table.isDamaged()) return true;
    return false;
  }

  problems(): ReadonlyMap<string, string> {
    return new Map(this.#tables.flatMap(({ problems }) => [...problems]));
  }

  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }
}

const nothing: SyncResult = { writes: 0, failures: [] };

/** One after the other. */
async function each(
  tables: readonly TableOfFamily[],
  sync: (table: TableOfFamily) => Promise<SyncResult>,
): Promise<SyncResult> {
  const results: SyncResult[] = [];
  for (const table of tables) results.push(await sync(table));
  return sum(results);
}

function errorOf(result: PromiseSettledResult<SyncResult> | undefined): Error | undefined {
  return result?.status === 'rejected' ? result.reason : result?.value.failures[0]?.error;
}

function unservedError(family: Family, { message }: Error): Error {
  const modules = family === 4 ? 'nf_tables and nft_chain_nat' : 'nf_tables, nft_chain_nat and ipv6';
  const advice = `the kernel needs CONFIG_NF_TABLES_IPV${family} and the modules ${modules}`;
  return new Error(`IPv${family} is not served: ${message} (${advice})`);
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

function connectionsOf(tables: readonly TableOfFamily[]): ConnectionCounts {
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
