import type { Family } from '../../core/address.ts';
import { applyChanges } from '../../core/reconcile.ts';
import { type Change, layer } from '../../core/rows.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { hasChain, LAYOUT_MISSING, type Made, NftTable, readLayoutNote } from '../../kernel/nftables.ts';
import { TableGlance } from '../../kernel/nftables-glance.ts';
import { Slices } from '../../kernel/nftables-slices.ts';
import type { SyncResult, Views } from '../backend.ts';
import type { NodeFacts, ProxyPolicy } from '../policy.ts';
import type { Protocol } from '../protocol.ts';
import type { Frontend } from '../view.ts';
import {
  type Capacity,
  canGrow,
  capacityFor,
  hasRoomFor,
  largerCapacity,
  largerSlots,
  leastCapacity,
  parseCapacity,
} from './capacity.ts';
import { frontendElement } from './elements.ts';
import { KeptPackets } from './kept-packets.ts';
import { type LayoutOptions, lastSlotsChain, layoutElements, proxyLayout } from './layout.ts';
import { nodeElements, podDetector } from './node-elements.ts';
import { FamilyPlan, planSize } from './plan.ts';

/** Services whose changes go in one transaction. */
const SERVICES_PER_TRANSACTION = 1_000;

export interface FamilyOptions {
  readonly policy: ProxyPolicy;
  readonly facts: NodeFacts;
  /** Frontends count their connections. */
  readonly counters?: boolean | undefined;
  /** Told when the kernel refused a change and the table is made anew. */
  readonly onRefused?: ((error: Error) => void) | undefined;
}

export interface FamilySockets {
  readonly socket: NetlinkSocket;
  readonly reader: NetlinkSocket;
}

type Changes = readonly Change<string, NftElement>[];

/** The table of one family: plan and kernel together. */
export class FamilyTable {
  readonly family: Family;
  readonly #sockets: FamilySockets;
  readonly #policy: ProxyPolicy;
  readonly #onRefused: (error: Error) => void;
  readonly #counters: boolean;
  readonly #packets = new KeptPackets();
  #facts: NodeFacts;
  #nodeElements: readonly NftElement[];
  #plan: FamilyPlan;
  #capacity: Capacity = leastCapacity;
  #table: NftTable;
  #glance: TableGlance;
  #isInPlace = false;

  constructor(
    family: Family,
    sockets: FamilySockets,
    { policy, facts, onRefused, counters = false }: FamilyOptions,
  ) {
    this.family = family;
    this.#sockets = sockets;
    this.#policy = policy;
    this.#counters = counters;
    this.#onRefused = onRefused ?? (() => {});
    this.#facts = facts;
    this.#nodeElements = nodeElements(family, policy.detectLocal, facts);
    this.#plan = FamilyPlan.of(family, new Map());
    this.#table = this.#newTable();
    this.#glance = new TableGlance(sockets.socket, this.#layout);
  }

  get problems(): ReadonlyMap<string, string> {
    return this.#plan.problems;
  }

  /**
   * Takes over what is in the kernel and makes it what the views say: in one transaction, or, where no table is that
   * somebody could be served by, in many while it is planned.
   */
  async replace(views: Views): Promise<SyncResult> {
    const services = new Map(views);
    const note = await readLayoutNote(this.#sockets.socket, this.#layout);
    const madeFor = note === undefined ? undefined : parseCapacity(note);
    const wanted = capacityFor(planSize(services, this.family));
    this.#takeOver(wanted, madeFor && { madeFor, there: await this.#grownFrom(madeFor) });
    this.#glance.forget();
    this.#isInPlace = true;
    if (note === undefined) {
      this.#plan = FamilyPlan.of(this.family, new Map());
      return await this.#table.fill(
        this.#elements(this.#plan.fill(services, this.#table.packer('endpoints'))),
      );
    }
    const actual = await this.#table.read();
    const isMissing = actual.delete(LAYOUT_MISSING);
    this.#plan = await FamilyPlan.inSlices(this.family, services, actual);
    if (isMissing) this.#provide(wanted);
    if (isMissing || !(await this.#grow(wanted))) return await this.#rewrite();
    return await this.#write([await this.#changesFrom(actual)]);
  }

  async update(changed: Views): Promise<SyncResult> {
    const transactions: Changes[] = [];
    let services = 0;
    for (const [service, ports] of changed) {
      this.#plan.put(service, ports);
      services += 1;
      if (services % SERVICES_PER_TRANSACTION === 0) transactions.push(this.#plan.drain());
    }
    transactions.push(this.#plan.drain());
    const [before, wanted] = [this.#capacity, capacityFor(this.#plan.size())];
    if (hasRoomFor(before, wanted)) return await this.#write(transactions);
    if (!(await this.#grow(wanted))) return await this.#rewrite();
    return await this.#write([this.#newLayoutElements(before), ...transactions]);
  }

  /** The node's addresses and the networks of services are these. */
  async updateNode(facts: NodeFacts): Promise<SyncResult> {
    const isOtherLayout = this.#nodePortsOn !== nodePortsOn(this.family, facts);
    const before = byKey(this.#nodeElements);
    this.#facts = facts;
    this.#nodeElements = nodeElements(this.family, this.#policy.detectLocal, facts);
    if (isOtherLayout) this.#renewTable();
    if (!this.#isInPlace) return { writes: 0, failures: [] };
    if (isOtherLayout) return await this.#rewrite();
    const after = byKey(this.#nodeElements);
    const came = [...after].filter(([key]) => !before.has(key));
    const gone = [...before].filter(([key]) => !after.has(key));
    return await this.#write([
      [
        ...gone.map(([key, actual]) => ({ kind: 'delete', key, actual }) as const),
        ...came.map(([key, wanted]) => ({ kind: 'create', key, wanted }) as const),
      ],
    ]);
  }

  /** Whether much of the table is gone: a few short messages. */
  async isDamaged(): Promise<boolean> {
    return this.#isInPlace && (await this.#glance.isDamaged(this.#table.timesMade, this.#samples()));
  }

  /** One element of each kind that services or the layout have. */
  #samples(): readonly NftElement[] {
    const ofLayout = layoutElements({ family: this.family, capacity: this.#capacity });
    const firsts = new Map(ofLayout.map((element) => [element.set, element]));
    return [...firsts.values(), ...this.#plan.samples()];
  }

  /** Takes in what frontends have counted by now. */
  readConnections(): Promise<void> {
    return this.#packets.take(() => this.#table.readPackets());
  }

  /** New connections to a frontend, as of the last reading. */
  connectionsTo(frontend: Frontend, protocol: Protocol): number {
    return this.#packets.sum(nftElementKey(frontendElement('all', frontend, protocol)));
  }

  /** Forgets the counts of frontends that were not asked for since the last time. */
  forgetConnections(): void {
    this.#packets.forgetUnwanted();
  }

  get #nodePortsOn(): LayoutOptions['nodePortsOn'] {
    return nodePortsOn(this.family, this.#facts);
  }

  get #layout(): ReturnType<typeof proxyLayout> {
    return this.#layoutFor(this.#capacity);
  }

  #layoutFor(capacity: Capacity): ReturnType<typeof proxyLayout> {
    return proxyLayout({
      family: this.family,
      detector: podDetector(this.family, this.#policy.detectLocal),
      masqueradeAll: this.#policy.masqueradeAll,
      masqueradeBit: this.#policy.masqueradeBit,
      nodePortsOn: this.#nodePortsOn,
      capacity,
      counters: this.#counters,
    });
  }

  /** What the kernel's table has room for that was made for this: chains may have been added since. */
  async #grownFrom(madeFor: Capacity): Promise<Capacity> {
    const layout = this.#layoutFor(madeFor);
    let { slots } = madeFor;
    for (let next = largerSlots(slots); next > slots; next = largerSlots(slots)) {
      if (!(await hasChain(this.#sockets.socket, layout, lastSlotsChain(next)))) break;
      slots = next;
    }
    return { ...madeFor, slots };
  }

  /** Goes on with the kernel's table as it is, where all that it lacks can be added to it. */
  #takeOver(
    wanted: Capacity,
    kernel: { readonly madeFor: Capacity; readonly there: Capacity } | undefined,
  ): void {
    if (kernel === undefined || !canGrow(kernel.there, largerCapacity(this.#capacity, wanted))) {
      this.#provide(kernel === undefined ? wanted : largerCapacity(wanted, kernel.there));
      return;
    }
    this.#capacity = kernel.there;
    this.#renewTable(this.#layoutFor(kernel.madeFor));
  }

  /** Sees to it that the layout has room: with a table that is to be made. */
  #provide(wanted: Capacity): void {
    if (hasRoomFor(this.#capacity, wanted)) return;
    this.#capacity = largerCapacity(this.#capacity, wanted);
    this.#renewTable();
  }

  /** Sees to it that the table has room; false: it is to be made anew. */
  async #grow(wanted: Capacity): Promise<boolean> {
    if (hasRoomFor(this.#capacity, wanted)) return true;
    const larger = largerCapacity(this.#capacity, wanted);
    const isInPlace = canGrow(this.#capacity, wanted);
    if (isInPlace && (await this.#table.grow(this.#layoutFor(larger))) === undefined) {
      this.#capacity = larger;
      return true;
    }
    this.#provide(wanted);
    return false;
  }

  /** What leads to chains that were added. */
  #newLayoutElements(before: Capacity): Changes {
    const known = new Set(layoutElements({ family: this.family, capacity: before }).map(nftElementKey));
    return layoutElements({ family: this.family, capacity: this.#capacity })
      .map((wanted) => ({ kind: 'create', key: nftElementKey(wanted), wanted }) as const)
      .filter(({ key }) => !known.has(key));
  }

  #renewTable(madeBy?: ReturnType<typeof proxyLayout>): void {
    this.#table = this.#newTable(madeBy);
    this.#glance = new TableGlance(this.#sockets.socket, this.#layout);
  }

  #newTable(madeBy?: ReturnType<typeof proxyLayout>): NftTable {
    return new NftTable({
      ...this.#sockets,
      ...(madeBy && { madeBy }),
      layout: this.#layout,
      rows: () => this.#elements(),
      onRefused: this.#onRefused,
      onCounted: (packets) => this.#packets.takenAway(packets),
    });
  }

  /** Everything into a table that is another one, in the one transaction that puts it in the place of the old. */
  async #rewrite(): Promise<Made> {
    return await this.#table.rebuild();
  }

  /** As `diff` of all wanted rows, without holding them: they are many, and mostly as they should be. */
  async #changesFrom(actual: ReadonlyMap<string, NftElement>): Promise<Change<string, NftElement>[]> {
    const changes: Change<string, NftElement>[] = [];
    const slices = new Slices();
    let found = 0;
    for (const wanted of this.#elements()) {
      const key = nftElementKey(wanted);
      const there = actual.get(key);
      if (there === undefined) changes.push({ kind: 'create', key, wanted });
      else {
        found += 1;
        if (!this.#table.same(wanted, there)) changes.push({ kind: 'update', key, wanted, actual: there });
      }
      if (slices.isOverAfterStep()) await slices.next();
    }
    if (found === actual.size) return changes;
    const wanted =
      found === 0 ? new Set<string>() : new Set(Iterator.from(this.#elements()).map(nftElementKey));
    for (const [key, row] of actual) if (!wanted.has(key)) changes.push({ kind: 'delete', key, actual: row });
    return changes;
  }

  *#elements<Element = NftElement>(
    ofServices: Iterable<NftElement | Element> = this.#plan.elements(),
  ): Generator<NftElement | Element> {
    yield* layoutElements({ family: this.family, capacity: this.#capacity });
    yield* ofServices;
    yield* this.#nodeElements;
  }

  /** Each list of changes is one transaction. A table that had to be made anew has got all of them at once. */
  async #write(transactions: readonly Changes[]): Promise<SyncResult> {
    const slices = new Slices();
    const { timesMade } = this.#table;
    let writes = 0;
    const failures: SyncResult['failures'][number][] = [];
    for (const changes of transactions) {
      if (changes.length === 0) continue;
      const result = await applyChanges([{ layer: layer(this.#table, new Map()), changes }]);
      writes += result.writes;
      failures.push(...result.failures);
      if (this.#table.timesMade !== timesMade) break;
      if (slices.isOver) await slices.next();
    }
    return { writes, failures };
  }
}

function nodePortsOn(family: Family, { nodePortIps }: NodeFacts): LayoutOptions['nodePortsOn'] {
  return nodePortIps[family] === 'all' ? 'all' : 'set';
}

function byKey(elements: readonly NftElement[]): Map<string, NftElement> {
  return new Map(elements.map((element) => [nftElementKey(element), element]));
}
