import { statSync } from 'node:fs';
import type { Cidr } from '../../core/address.ts';
import { diff } from '../../core/diff.ts';
import type { Report } from '../../core/reconcile.ts';
import type { Change, Failure, Table } from '../../core/rows.ts';
import type { ChangeRecord } from '../changes.ts';
import { Bus, BusError, BusTimeoutError, isAbsent, parseBusAddress } from '../dbus/bus.ts';
import type { BusCall, BusValue } from '../dbus/message.ts';
import { CniError, cniCode } from '../error.ts';

/** An address that belongs to a zone of firewalld, as far as firewalld runs: its permanent configuration is not ours. */
export interface FirewalldRow {
  readonly zone: string;
  /** A single address. */
  readonly source: Cidr;
}

/** The row's key in its table. */
export function firewalldKey({ zone, source }: FirewalldRow): string {
  return `${source} ${zone}`;
}

/** The inverse of {@link firewalldKey}. */
function rowOfKey(key: string): FirewalldRow {
  const at = key.indexOf(' ');
  return { source: key.slice(0, at) as Cidr, zone: key.slice(at + 1) };
}

/** What is done takes firewalld some milliseconds, but it does nothing else while it loads its rules. */
const timeoutMs = 10_000;

const name = 'org.fedoraproject.FirewallD1';

function zoneCall(member: string, ...args: string[]): BusCall {
  const at = { destination: name, path: '/org/fedoraproject/FirewallD1' };
  return { ...at, interface: `${name}.zone`, member, args };
}

/** A source is of no zone, is of another one, or there is no such zone: it is not ours to remove any more. */
const goneText = /^(UNKNOWN_SOURCE|ZONE_CONFLICT|INVALID_ZONE)\b/;
const thereText = /^ZONE_ALREADY_SET\b/;

export interface FirewalldTableOptions {
  /** As in DBUS_SYSTEM_BUS_ADDRESS; empty or undefined: where the bus usually is. */
  readonly busAddress?: string | undefined;
  /**
   * Which sources are ours: nothing in firewalld tells. Undefined: every source counts as one that is there, so none is to
   * be removed because nobody wants it.
   */
  readonly record?: Pick<ChangeRecord, 'sources' | 'changeSources'> | undefined;
  /** Number of the network namespace that firewalld would have to be in, to be of any use. */
  readonly namespace?: number | undefined;
}

/**
 * Sources of firewalld's zones, by D-Bus. Where there is no firewalld there are no rows; removing some has nothing to
 * do, making some fails.
 */
export class FirewalldTable implements Table<string, FirewalldRow> {
  readonly name = 'firewalld';
  readonly #options: FirewalldTableOptions;
  #isUnheard = false;
  /** What a repair is writing. */
  #repairing: { readonly keys: ReadonlySet<string>; readonly done: Promise<unknown> } | undefined;

  constructor(options: FirewalldTableOptions = {}) {
    this.#options = options;
  }

  /** The key is all that there is. */
  same(): boolean {
    return true;
  }

  /** Whether something is left to be done that no change of the packet filter will tell of. */
  get isUnheard(): boolean {
    return this.#isUnheard;
  }

  /** Whether rows may be there that nobody wants. */
  get hasOwn(): boolean {
    return (this.#options.record?.sources.length ?? 0) > 0;
  }

  /** Whether it runs, where the pods of this table are. */
  async runs(): Promise<boolean> {
    try {
      using bus = await this.#open();
      await bus.ownerOf(name);
      const { namespace } = this.#options;
      return namespace === undefined || isIn(namespace, await bus.processOf(name));
    } catch {
      return false;
    }
  }

  async read(): Promise<Map<string, FirewalldRow>> {
    try {
      return await this.#read();
    } catch (error) {
      if (isAbsent(error)) return new Map();
      throw error;
    }
  }

  async #read(): Promise<Map<string, FirewalldRow>> {
    const { record } = this.#options;
    if (record?.sources.length === 0) return new Map();
    using bus = await this.#open();
    const sources = sourcesOf(await bus.call(zoneCall('getActiveZones')));
    const isOurs = new Set(record?.sources);
    const ours = sources.filter((row) => record === undefined || isOurs.has(firewalldKey(row)));
    return new Map(ours.map((row) => [firewalldKey(row), row]));
  }

  /**
   * Puts in what is wanted and not there; with a record, takes out what nobody wants. What is wanted is asked when the
   * sources were read, so that parts may come and go meanwhile: their own changes of the same sources come after these.
   * One repair at a time.
   */
  async repair(wanted: () => ReadonlyMap<string, FirewalldRow>): Promise<Report> {
    try {
      const actual = await this.#read();
      const rows = wanted();
      const changes = diff(rows, actual, () => true).filter(
        ({ kind }) => kind !== 'delete' || this.#options.record !== undefined,
      );
      this.#forget(rows, actual);
      const failures = changes.length === 0 ? [] : await this.#writeRepair(changes);
      this.#isUnheard = failures.length > 0;
      return { writes: changes.length, failures: failures.map((one) => ({ ...one, table: this.name })) };
    } catch (error) {
      // With firewalld its rules are gone, too; when it comes back the sources are missing.
      this.#isUnheard = true;
      if (isAbsent(error)) return { writes: 0, failures: [] };
      throw error;
    }
  }

  async #writeRepair(changes: readonly Change<string, FirewalldRow>[]): Promise<Failure<string>[]> {
    const done = this.#write(changes);
    this.#repairing = { keys: new Set(changes.map(({ key }) => key)), done };
    try {
      return await done;
    } finally {
      this.#repairing = undefined;
    }
  }

  /** What is on record and neither wanted nor there. */
  #forget(wanted: ReadonlyMap<string, unknown>, actual: ReadonlyMap<string, unknown>): void {
    const { record } = this.#options;
    const isLost = (key: string) => !wanted.has(key) && !actual.has(key);
    record?.changeSources([], record.sources.filter(isLost));
  }

  async write(changes: readonly Change<string, FirewalldRow>[]): Promise<Failure<string>[]> {
    const { keys, done } = this.#repairing ?? {};
    if (changes.some(({ key }) => keys?.has(key))) await done;
    return this.#write(changes);
  }

  async #write(changes: readonly Change<string, FirewalldRow>[]): Promise<Failure<string>[]> {
    const { record } = this.#options;
    const made = changes.filter(({ kind }) => kind !== 'delete').map(({ key }) => key);
    const known = new Set(record?.sources);
    record?.changeSources(made, []);
    const errors = await this.#apply(changes);
    const failures = changes.flatMap((change, index) => {
      const [{ key, kind }, error] = [change, errors[index]];
      return error === undefined ? [] : [{ key, kind, error: toldBy(change, error) }];
    });
    const gone = changes.filter(({ key, kind }, index) => {
      const error = errors[index];
      if (kind === 'delete') return error === undefined;
      // Without an answer it may be there; what was there before stays.
      return error !== undefined && !(error instanceof BusTimeoutError) && !known.has(key);
    });
    if (failures.length > 0) this.#isUnheard = true;
    record?.changeSources(
      [],
      gone.map(({ key }) => key),
    );
    return failures;
  }

  /** What became of each change: one after the other, on one connection. */
  async #apply(changes: readonly Change<string, FirewalldRow>[]): Promise<(Error | undefined)[]> {
    using stack = new DisposableStack();
    const opening = this.#open().then((bus) => stack.use(bus));
    const errors: (Error | undefined)[] = [];
    for (const change of changes) {
      try {
        await apply(await opening, change);
        errors.push(undefined);
      } catch (error) {
        errors.push(change.kind === 'delete' && isAbsent(error) ? undefined : (error as Error));
      }
    }
    return errors;
  }

  async #open(): Promise<Bus> {
    return Bus.open({ path: parseBusAddress(this.#options.busAddress), timeoutMs });
  }
}

/** A process that we do not see may be anywhere. */
function isIn(namespace: number, pid: BusValue | undefined): boolean {
  try {
    return statSync(`/proc/${pid}/ns/net`).ino === namespace;
  } catch {
    return true;
  }
}

async function apply(bus: Bus, change: Change<string, FirewalldRow>): Promise<void> {
  const isDelete = change.kind === 'delete';
  const { zone, source } = rowOfKey(change.key);
  try {
    const call = zoneCall(isDelete ? 'removeSource' : 'addSource', zone, source);
    await bus.call({ ...call, mayStart: !isDelete });
  } catch (error) {
    const text = error instanceof BusError ? error.message : '';
    if (!(isDelete ? goneText : thereText).test(text)) throw error;
  }
}

/** The sources in the answer to getActiveZones: `a{sa{sas}}`, by zone and by "interfaces" or "sources". */
export function sourcesOf(zones: BusValue | undefined): FirewalldRow[] {
  const pairs = (value: BusValue | undefined) => (value ?? []) as readonly (readonly [string, BusValue])[];
  return pairs(zones).flatMap(([zone, members]) => {
    const sources = pairs(members).find(([kind]) => kind === 'sources')?.[1] as readonly Cidr[] | undefined;
    return (sources ?? []).map((source) => ({ zone, source }));
  });
}

/** In the words of the reference plugin. */
function toldBy({ kind, key }: Change<string, FirewalldRow>, { message }: Error): CniError {
  const { zone, source } = rowOfKey(key);
  const what = kind === 'delete' ? 'remove the address' : 'add the address';
  const to = kind === 'delete' ? 'from' : 'to';
  return new CniError(cniCode.internal, `failed to ${what} ${source} ${to} ${zone} zone: ${message}`);
}
