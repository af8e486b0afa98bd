import type { Change, Failure, Table } from '../core/rows.ts';
import type { Descriptor, Lane } from '../native/index.ts';
import { isMissing, type KernelError } from './errors.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { decodeElements } from './netlink/nftables/decode-elements.ts';
import type { ElementPacker, PackedElements } from './netlink/nftables/element-packer.ts';
import { type EncodedLayout, encodeChain, encodeLayout } from './netlink/nftables/layout.ts';
import { deleteTable, newTable } from './netlink/nftables/messages.ts';
import { getElements } from './netlink/nftables/requests.ts';
import { type NftElement, type NftLayout, type NftSet, nftElementKey } from './netlink/nftables/spec.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink/socket.ts';
import { commit, enterLedger, readGeneration } from './nftables-generation.ts';
import { hasChain, layoutInPlace, readSets } from './nftables-layout.ts';
import { type ElementPackets, packetsOfRemoved, readPackets } from './nftables-packets.ts';
import { misfit, type OpenSet, openSet } from './nftables-sets.ts';
import { Slices } from './nftables-slices.ts';

export { ForeignChanges, readGeneration } from './nftables-generation.ts';
export { hasChain, readLayoutNote } from './nftables-layout.ts';

/** A transaction is one datagram: 5 MB for 120,000 elements. Nothing is reserved until it is needed. */
const SOCKET_BUFFER_BYTES = 64 << 20;
/** Elements of one transaction of `fill`, at least: some milliseconds, both to bring them together and to take them in. */
const ELEMENTS_PER_TRANSACTION = 4_000;
/** Transactions of `fill` that may wait for the kernel: it never waits for us, and what waits takes no more than 1 MB. */
const TRANSACTIONS_AHEAD = 6;
/** Reads in a row that others' transactions fell into, before what was read is taken as it is. */
const READ_ATTEMPTS_MAX = 4;

/** A socket whose buffers hold whole transactions. The caller disposes of it after the tables that use it. */
export function openNftSocket(options: { namespaceFd?: Descriptor; lane?: Lane } = {}): NetlinkSocket {
  const socket = NetlinkSocket.open(NETLINK_NETFILTER, { ...options, bufferBytes: SOCKET_BUFFER_BYTES });
  enterLedger(socket, options.namespaceFd);
  return socket;
}

/**
 * Read in place of the elements when the kernel's table is not ours as the layout says: a row that nobody wants, so
 * that even a table without elements is written.
 */
export const LAYOUT_MISSING = 'layout missing';

export interface NftTableOptions {
  /** From {@link openNftSocket}. */
  readonly socket: NetlinkSocket;
  /** Another one, for what is long: with a lane, so that nothing waits while the kernel writes down or takes in much. */
  readonly reader?: NetlinkSocket;
  readonly layout: NftLayout;
  /** The layout that the kernel's table was made by, where chains were added since, see {@link NftTable.grow}. */
  readonly madeBy?: NftLayout;
  /**
   * All rows as they are wanted, from whoever keeps them, each change as soon as it is handed to `write`; rows that
   * do not fit are left out. Given: the table keeps none itself, and takes these when it is made anew.
   */
  readonly rows?: () => Iterable<NftElement>;
  /** Told when the kernel refused a change and the table is made anew. */
  readonly onRefused?: (error: KernelError) => void;
  /** Told what elements of sets with `counter` had counted when we took them away, also for a new value of theirs. */
  readonly onCounted?: (packets: ElementPackets) => void;
}

/** A transaction of `fill`. */
interface Portion {
  readonly count: number;
  readonly messages: readonly NetlinkMessage[];
}

/** What `fill` and `rebuild` did. */
export interface Made {
  readonly writes: number;
  readonly failures: readonly Failure<string>[];
}

/**
 * The elements of one table of nftables whose chains, rules and sets are fixed by a layout. Each write is one
 * transaction: packets see all of it or nothing. The first write after the layout was missing, changed or damaged
 * makes the whole table anew in one transaction, and so does the one retry of a refused change.
 */
export class NftTable implements Table<string, NftElement> {
  readonly name: string;
  readonly atomic = true;
  readonly #socket: NetlinkSocket;
  readonly #reader: NetlinkSocket;
  #layout: NftLayout;
  #encoded: EncodedLayout;
  /** What is in the table's comment, if it is ours. */
  #mark: string;
  readonly #sets: ReadonlyMap<string, OpenSet>;
  readonly #onRefused: (error: KernelError) => void;
  readonly #onCounted: (packets: ElementPackets) => void;
  readonly #ownersRows: (() => Iterable<NftElement>) | undefined;
  /** What the table is to hold by what we read and wrote, where no owner says it. */
  #rows = new Map<string, NftElement>();
  /** Undefined before anything was read or written. */
  #inPlace: boolean | undefined;
  #timesMade = 0;

  constructor(options: NftTableOptions) {
    const { socket, reader = socket, layout, rows, onRefused = () => {}, onCounted = () => {} } = options;
    this.name = `nftables ${layout.family} ${layout.table}`;
    this.#socket = socket;
    this.#reader = reader;
    this.#layout = layout;
    this.#encoded = encodeLayout(layout);
    this.#mark = options.madeBy === undefined ? this.#encoded.mark : encodeLayout(options.madeBy).mark;
    this.#sets = new Map(layout.sets.map((spec) => [spec.name, openSet(layout, spec)]));
    this.#ownersRows = rows;
    this.#onRefused = onRefused;
    this.#onCounted = onCounted;
  }

  same(wanted: NftElement, actual: NftElement): boolean {
    const { data } = wanted;
    if (typeof data !== 'object') return data === actual.data;
    return typeof actual.data === 'object' && chainOf(data) === chainOf(actual.data);
  }

  /** All elements except those of dynamic sets, which packets make. */
  async read(): Promise<Map<string, NftElement>> {
    const rows = await this.#readSteadily();
    this.#inPlace = rows !== undefined;
    if (this.#ownersRows === undefined) this.#rows = new Map(rows);
    return rows ?? new Map([[LAYOUT_MISSING, { set: '', key: '' }]]);
  }

  async #readSteadily(): Promise<Map<string, NftElement> | undefined> {
    let before = await readGeneration(this.#socket);
    for (let attempt = 1; ; attempt += 1) {
      const rows = await this.#readOnce();
      const after = await readGeneration(this.#socket);
      if (after === before || attempt === READ_ATTEMPTS_MAX) return rows;
      before = after;
    }
  }

  async #readOnce(): Promise<Map<string, NftElement> | undefined> {
    if (!(await layoutInPlace(this.#socket, this.#layout, { ...this.#encoded, mark: this.#mark })))
      return undefined;
    const rows = new Map<string, NftElement>();
    const slices = new Slices();
    try {
      for (const set of this.#layout.sets) if (!set.dynamic) await this.#readSet(set, rows, slices);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
    return rows;
  }

  /** A range may begin in one message and end in the next: sets of ranges, which are small, are read whole. */
  async #readSet(set: NftSet, rows: Map<string, NftElement>, slices: Slices): Promise<void> {
    const messages = await this.#reader.dump(getElements(this.#layout, set.name));
    for (const part of set.interval ? [messages] : messages.map((message) => [message])) {
      for (const element of decodeElements(set, part)) rows.set(nftElementKey(element), element);
      if (slices.isOver) await slices.next();
    }
  }

  async write(changes: readonly Change<string, NftElement>[]): Promise<Failure<string>[]> {
    if (this.#inPlace === undefined) await this.read();
    const failures: Failure<string>[] = [];
    const good = changes.filter((change) => {
      const { key, kind } = change;
      const reason = change.kind === 'delete' ? undefined : this.#misfit(change.wanted);
      if (reason === undefined) return key !== LAYOUT_MISSING;
      failures.push(this.#misfitting(key, kind, reason));
      return false;
    });
    const refused = this.#inPlace ? await this.#send(this.#changeMessages(good)) : undefined;
    for (const change of good) this.#keep(change.key, change.kind === 'delete' ? undefined : change.wanted);
    if (this.#inPlace && refused === undefined) return failures;
    if (refused !== undefined) this.#onRefused(refused);
    const { error } = await this.#makeAnew([]);
    if (error === undefined) return failures;
    // Nothing was done. The next write makes the table anew, with these rows as they were.
    for (const change of good) this.#keep(change.key, change.kind === 'create' ? undefined : change.actual);
    return [...failures, ...good.map(({ key, kind }) => ({ key, kind, error }))];
  }

  /**
   * How often the whole table was made. When it was made in a `write`, it holds all that the owner's rows say, also
   * what has not been written yet.
   */
  get timesMade(): number {
    return this.#timesMade;
  }

  /** Makes the table of the owner's rows, in the one transaction that puts it in the place of what is there. */
  async rebuild(): Promise<Made> {
    const failures: Failure<string>[] = [];
    const { error, writes } = await this.#makeAnew(failures);
    if (error === undefined) return { writes, failures };
    return { writes: 0, failures: [...failures, { key: LAYOUT_MISSING, kind: 'create', error }] };
  }

  /**
   * Adds the chains to the table in which another layout differs: each in a transaction of its own, for the kernel looks at
   * all elements of a map for each rule that uses it. A table's comment is for ever: it stays that of the layout by which
   * the table was made. Refused: nothing leads to what was added.
   */
  async grow(layout: NftLayout): Promise<KernelError | undefined> {
    const there = new Set(this.#layout.chains.map(({ name }) => name));
    for (const chain of layout.chains) {
      if (there.has(chain.name) || (await hasChain(this.#socket, layout, chain.name))) continue;
      const error = await commit(this.#reader, encodeChain(layout, chain));
      if (error !== undefined) return error;
    }
    this.#layout = layout;
    this.#encoded = encodeLayout(layout);
    return undefined;
  }

  /** For elements of a set that are put straight into messages, for {@link NftTable.fill}. */
  packer(set: string): ElementPacker {
    const packer = this.#sets.get(set)?.encoder.packer();
    if (packer === undefined)
      throw new RangeError(`${this.name}: there is no set "${set}" of plain elements`);
    return packer;
  }

  /**
   * Makes the table where none is that somebody could be served by, of elements that come meanwhile: they must be
   * those of the owner's rows. In several transactions, the kernel at work on them while the next come together.
   * The rules of chains with hooks are in the last: until then no packet meets any of it, and what a killed process
   * leaves is seen as no layout at all. Not for layouts with a chain that drops what it knows nothing of.
   */
  async fill(elements: Iterable<NftElement | PackedElements>): Promise<Made> {
    const { begin, end } = this.#encoded;
    const failures: Failure<string>[] = [];
    const slices = new Slices();
    const sent = [commit(this.#reader, [...this.#removal(), ...begin])];
    let writes = 0;
    for (const { count, messages } of this.#portions(elements, failures)) {
      if ((await sent.at(-TRANSACTIONS_AHEAD)) !== undefined) break;
      sent.push(commit(this.#reader, messages));
      writes += count;
      if (slices.isOver) await slices.next();
    }
    const errors = await Promise.all(sent);
    const refused = errors.find((error) => error !== undefined) ?? (await commit(this.#reader, end));
    this.#inPlace = refused === undefined;
    if (refused === undefined) {
      this.#isMade();
      return { writes, failures };
    }
    this.#onRefused(refused);
    await commit(this.#socket, this.#removal());
    return await this.rebuild();
  }

  /** What goes to the kernel in one transaction each. */
  *#portions(
    elements: Iterable<NftElement | PackedElements>,
    failures: Failure<string>[],
  ): Generator<Portion> {
    let [count, messages, rows]: [number, NetlinkMessage[], NftElement[]] = [0, [], []];
    for (const element of elements) {
      if ('message' in element) {
        messages.push(element.message);
        count += element.count;
      } else {
        const reason = this.#misfit(element);
        if (reason === undefined) rows.push(element);
        else failures.push(this.#misfitting(nftElementKey(element), 'create', reason));
        count += reason === undefined ? 1 : 0;
      }
      if (count < ELEMENTS_PER_TRANSACTION) continue;
      yield { count, messages: messages.concat(this.#elementMessages('add', rows)) };
      [count, messages, rows] = [0, [], []];
    }
    yield { count, messages: messages.concat(this.#elementMessages('add', rows)) };
  }

  #misfitting(key: string, kind: Failure['kind'], reason: string): Failure<string> {
    return { key, kind, error: new RangeError(`${this.name}, element "${key}": ${reason}`) };
  }

  #keep(key: string, row: NftElement | undefined): void {
    if (this.#ownersRows !== undefined) return;
    if (row === undefined) this.#rows.delete(key);
    else this.#rows.set(key, row);
  }

  /** Of all rows; those that do not fit become failures. In slices, and the kernel takes it in beside all else. */
  async #makeAnew(
    failures: Failure<string>[],
  ): Promise<{ readonly error: KernelError | undefined; readonly writes: number }> {
    const slices = new Slices();
    const { begin, end } = this.#encoded;
    const messages = [...this.#removal(), ...begin];
    let writes = 0;
    for (const portion of this.#portions(this.#ownersRows?.() ?? this.#rows.values(), failures)) {
      messages.push(...portion.messages);
      writes += portion.count;
      if (slices.isOver) await slices.next();
    }
    messages.push(...(await this.#readDynamic(slices)), ...end);
    const counted = await this.readPackets();
    const error = await commit(this.#reader, messages);
    this.#inPlace = error === undefined;
    if (error !== undefined) return { error, writes: 0 };
    this.#isMade();
    if (counted.size > 0) this.#onCounted(counted);
    return { error, writes };
  }

  #isMade(): void {
    this.#timesMade += 1;
    this.#mark = this.#encoded.mark;
  }

  /** Takes the whole table away; it may be gone already. */
  async remove(): Promise<void> {
    this.#rows = new Map();
    this.#inPlace = false;
    const error = await this.#send(this.#removal());
    if (error !== undefined) throw error;
  }

  /** What elements of sets with `counter` have counted since they were made. */
  readPackets(): Promise<ElementPackets> {
    return readPackets(this.#reader, this.#layout);
  }

  async #send(messages: readonly NetlinkMessage[]): Promise<KernelError | undefined> {
    const answers: NetlinkMessage[] = [];
    const error = await commit(this.#socket, messages, (answer) => answers.push(answer));
    if (answers.length > 0) this.#onCounted(packetsOfRemoved(answers));
    return error;
  }

  /** Messages of what packets have put into the table that is about to be replaced: clients keep their endpoints. */
  async #readDynamic(slices: Slices): Promise<NetlinkMessage[]> {
    const dynamic = this.#layout.sets.filter((set) => set.dynamic);
    if (dynamic.length === 0) return [];
    const there = await readSets(this.#socket, this.#layout);
    const kept: NetlinkMessage[] = [];
    for (const set of dynamic.filter((each) => there.has(each))) {
      for (const message of await this.#reader.dump(getElements(this.#layout, set.name))) {
        const elements = decodeElements(set, [message]);
        const living = elements.filter(({ lifetime }) => lifetime === undefined || lifetime.expiresMs > 0);
        kept.push(...this.#elementMessages('add', living));
        if (slices.isOver) await slices.next();
      }
    }
    return kept;
  }

  /** Only what changes. A new value is a removal and an addition: the kernel has no other way. */
  #changeMessages(changes: readonly Change<string, NftElement>[]): NetlinkMessage[] {
    const removed = changes.flatMap((change) => (change.kind === 'create' ? [] : [change.actual]));
    const added = changes.flatMap((change) => (change.kind === 'delete' ? [] : [change.wanted]));
    return [...this.#elementMessages('remove', removed), ...this.#elementMessages('add', added)];
  }

  /** A table must be there to be deleted. */
  #removal(): NetlinkMessage[] {
    return [newTable(this.#layout), deleteTable(this.#layout)];
  }

  #elementMessages(way: 'add' | 'remove', elements: Iterable<NftElement>): NetlinkMessage[] {
    const bySet = Map.groupBy(elements, (element) => element.set);
    return [...bySet].flatMap(([name, group]) => this.#sets.get(name)?.encoder[way](group) ?? []);
  }

  #misfit(element: NftElement): string | undefined {
    return misfit(this.#sets, this.#layout, element);
  }
}

function chainOf(verdict: Exclude<NftElement['data'], string | undefined>): string {
  return 'chain' in verdict ? `${verdict.verdict} ${verdict.chain}` : verdict.verdict;
}
