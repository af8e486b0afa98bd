import { applyChanges, type Report } from '../core/reconcile.ts';
import type { Change, Table } from '../core/rows.ts';
import type { AttachmentRow, BegunPair } from '../kernel/attachment.ts';
import { KernelError } from '../kernel/errors.ts';
import type { Reply } from '../kernel/unix-socket.ts';
import type { Bridges } from './bridges.ts';
import { CniError, cniCode } from './error.ts';
import type { LeaseBook } from './leases.ts';
import type { Log } from './log.ts';
import {
  attachmentKey,
  type Part,
  type PartRows,
  type RowKind,
  rowKinds,
  rowSequences,
  rowsOf,
} from './part.ts';
import type { PartTables } from './part-tables.ts';
import { hostPortsOf, staleFlows } from './types/hostport.ts';
import { leadsElsewhere, type WantedRows } from './wanted.ts';

/** Places where a test may stop the process, about in the order in which ADD and DEL pass them. */
export const faultPoints = [
  'add:begin',
  'add:asking',
  'add:allocated',
  'add:planned',
  'add:begun',
  'add:recorded',
  ...rowKinds.map((kind) => `add:${kind}` as const),
  'add:made',
  'add:answered',
  'del:begin',
  ...rowKinds.map((kind) => `del:${kind}` as const).reverse(),
  'del:quiesced',
  'del:released',
  'del:told',
  'del:answered',
] as const;
export type FaultPoint = (typeof faultPoints)[number];

export interface AttacherOptions {
  readonly tables: PartTables;
  readonly bridges: Pick<Bridges, 'ensure' | 'forget' | 'macOf'>;
  readonly leases: LeaseBook;
  readonly wanted: WantedRows;
  readonly log: Log;
  readonly pass: (point: FaultPoint) => void;
}

/** The answer to an ADD, given by the thread that makes its pair, when all the rest is done by then. */
export interface AnswerAhead {
  readonly reply: Reply;
  /** Nothing else is to be waited for. */
  arm(): void;
}

/** A pair of links that the kernel is at work on. */
export interface Begun {
  readonly pair: BegunPair;
  /** Takes it back, where it does not come to `make`. */
  abandon(): Promise<void>;
}

/** What `make` has to do with besides rows. */
export interface MakeOptions {
  readonly ahead?: AnswerAhead | undefined;
  readonly begun?: Begun | undefined;
}

type Way = 'create' | 'delete';

interface LayerOptions {
  /** The container's. */
  readonly namespaceFd: number | undefined;
  /** Sent when the pair is made. */
  readonly reply?: Reply | undefined;
  readonly begun?: BegunPair | undefined;
  /** Rows that are left alone. */
  readonly but?: readonly Failed[];
}

interface How extends Omit<LayerOptions, 'reply'> {
  readonly ahead?: AnswerAhead;
}

type Failed = Report['failures'][number] & { readonly kind: string };

/**
 * Makes and removes parts: their rows in the kernel together with the record that says they are wanted. What fails
 * leaves neither behind. One call at a time for one attachment; the caller sees to that.
 */
export class Attacher {
  readonly #options: AttacherOptions;

  constructor(options: AttacherOptions) {
    this.#options = options;
  }

  /**
   * The kernel begins with the pair of links while all the rest is planned, which `make` goes on with. Undefined where
   * that is of no use.
   */
  begin(attachment: AttachmentRow, namespaceFd: number): Begun | undefined {
    const { tables, log } = this.#options;
    const pair = tables.begin(forMaking(attachment, { namespaceFd }));
    if (pair === undefined) return undefined;
    const { hostName } = attachment;
    const abandon = async () => {
      const error = await tables.abandon(hostName, pair);
      if (error !== undefined)
        log.error({ hostName, error: error.message }, 'link of a failed ADD not removed');
    };
    return { pair, abandon };
  }

  /**
   * Makes the rows in the order of their tables. The record is written while the kernel works on the first of them: a
   * row without a part is removed by the next daemon. Throws CniError.
   */
  async make(part: Part, namespaceFd: number, { ahead, begun }: MakeOptions = {}): Promise<void> {
    const { leases, wanted, pass } = this.#options;
    const conflict = wanted.hostPortConflict(part);
    if (conflict !== undefined) {
      await begun?.abandon();
      if (part.addresses !== undefined) leases.giveBack(attachmentKey(part));
      throw conflict;
    }
    const replaced = leases.get(attachmentKey(part)).find(({ type }) => type === part.type);
    wanted.add(part);
    if (replaced !== undefined) wanted.remove(replaced);
    const arm = () => {
      if (unrecorded === undefined) ahead?.arm();
    };
    const isLast = ahead !== undefined && staleFlows(hostPortsOf(part.rows)).length === 0;
    const making = this.#write(part.rows, 'create', {
      namespaceFd,
      begun: begun?.pair,
      ...(isLast && { ahead: { reply: ahead.reply, arm } }),
    });
    pass('add:begun');
    const unrecorded = attempt(() => leases.record(part));
    pass('add:recorded');
    let failures = await making;
    if (part.bridge !== undefined && failures.some(isBridgeGone)) {
      failures = await this.#makeAgain(part, namespaceFd);
    }
    const [failure] = failures;
    if (failure !== undefined || unrecorded !== undefined) {
      await this.#undo(part, namespaceFd, failures);
      throw failure === undefined
        ? new CniError(cniCode.ioFailure, `failed to record the lease: ${unrecorded?.message}`)
        : attachError(failure, part);
    }
    wanted.noteMade(part);
    await this.#forgetFlows(part);
    pass('add:made');
  }

  /**
   * Takes the rows away, last made first. The addresses come back when no packet can reach the pod any more. What
   * another program is to be told is left, and comes back.
   */
  async remove(part: Part, namespaceFd: number | undefined): Promise<Part | undefined> {
    const { leases, wanted, pass } = this.#options;
    wanted.remove(part);
    const [failure] = await this.#write(part.rows, 'delete', { namespaceFd });
    if (failure !== undefined) {
      wanted.add(part);
      throw new CniError(cniCode.ioFailure, `failed to detach: ${failure.error.message}`);
    }
    await this.#forgetFlows(part);
    pass('del:quiesced');
    const left = leases.strip(part);
    pass('del:released');
    return left;
  }

  async #makeAgain(part: Part, namespaceFd: number): Promise<readonly Failed[]> {
    const { bridges, wanted } = this.#options;
    if (part.bridge === undefined) return [];
    bridges.forget(part.bridge.bridge);
    wanted.noteLost('sysctls');
    try {
      await bridges.ensure(part.bridge);
      return await this.#write(part.rows, 'create', { namespaceFd });
    } catch (error) {
      return [{ key: part.bridge.bridge, kind: 'create', table: 'bridge', error: error as Error }];
    }
  }

  /** A row that could not be made may be somebody else's: only the others are taken back. */
  async #undo(part: Part, namespaceFd: number, failures: readonly Failed[]): Promise<void> {
    const { leases, wanted, log } = this.#options;
    wanted.remove(part);
    const left = await this.#write(part.rows, 'delete', { namespaceFd, but: failures });
    for (const { table, key, error } of left)
      log.error({ table, key, error: error.message }, 'row of a failed ADD not removed');
    leases.strip(part);
  }

  async #forgetFlows({ rows }: Part): Promise<void> {
    const ports = hostPortsOf(rows);
    if (ports.length === 0) return;
    try {
      await this.#options.tables.forgetFlows(ports);
    } catch (error) {
      this.#options.log.warn({ error: (error as Error).message }, 'flows of host ports not forgotten');
    }
  }

  /** The sequences at the same time. */
  async #write(rows: PartRows, way: Way, how: How): Promise<readonly Failed[]> {
    const isAhead = how.ahead !== undefined && this.#endsWithPair(rows, how);
    const { ahead, ...rest } = how;
    const options = isAhead ? { ...rest, reply: ahead?.reply } : rest;
    const [withPair = [], ...others] = rowSequences.map((kinds) => this.#apply(rows, kinds, way, options));
    if (isAhead) {
      void Promise.all(others).then((lists) => lists.every(({ length }) => length === 0) && ahead?.arm());
    }
    return (await Promise.all([withPair, ...others])).flat();
  }

  /** Never rejects. */
  async #apply(
    rows: PartRows,
    kinds: readonly RowKind[],
    way: Way,
    options: LayerOptions,
  ): Promise<readonly Failed[]> {
    const layers = kinds.flatMap((kind) => this.#layer(rows, kind, way, options) ?? []);
    if (layers.length === 0) return [];
    try {
      return (await applyChanges(layers)).failures;
    } catch (error) {
      return [{ key: '', kind: way, table: '', error: error as Error }];
    }
  }

  /** Whether nothing in its sequence comes after the pair. */
  #endsWithPair(rows: PartRows, options: LayerOptions): boolean {
    const [first] = rowSequences;
    const later = first.slice(first.indexOf('attachment') + 1);
    return (
      rows.attachment !== undefined &&
      later.every((kind) => this.#layer(rows, kind, 'create', options) === undefined)
    );
  }

  #layer(rows: PartRows, kind: RowKind, way: Way, { namespaceFd, reply, begun, but = [] }: LayerOptions) {
    if (rows[kind] === undefined) return undefined;
    const { wanted, pass } = this.#options;
    const own = forWrite(rowsOf(rows, kind), kind, way, { namespaceFd, reply, begun });
    const table = this.#table(kind, rows, namespaceFd);
    if (table === undefined) return undefined;
    const isFailed = (key: string) => but.some((one) => one.table === table.name && one.key === key);
    const changes = [...own].flatMap(([key, row]): Change<unknown, unknown>[] => {
      // A parameter of the node is many pods', and each write costs as much as all the rest of a host port.
      if (way === 'create' && kind === 'sysctls' && wanted.isMade(kind, key)) return [];
      const current = wanted.current(kind, key);
      const isAnothers = current !== undefined && leadsElsewhere(current, row);
      if (way === 'create') return isAnothers ? [] : [{ kind: 'create', key, wanted: row }];
      if (isFailed(key)) return [];
      if (isAnothers) return [{ kind: 'update', key, wanted: current, actual: row }];
      return current === undefined ? [{ kind: 'delete', key, actual: row }] : [];
    });
    if (changes.length === 0) return undefined;
    const write: Table<unknown, unknown>['write'] = async (some) => {
      // Asked once more: by now another part may have come to want a row that is to go.
      const failures = await table.write(
        some.filter((change) => change.kind !== 'delete' || !wanted.has(kind, change.key as string)),
      );
      pass(`${way === 'create' ? 'add' : 'del'}:${kind}`);
      if (way === 'delete' && (kind === 'pod' || kind === 'firewalld')) return this.#leave(kind, failures);
      return failures;
    };
    // Not as one transaction, which could not take its turn backwards: all changes here go one way.
    return { layer: { table: { ...noTable, name: table.name, write } }, changes };
  }

  /**
   * The container ends: a setting in it that cannot be put back is not worth keeping it for. What firewalld does not take
   * out now is on record, and taken out later.
   */
  #leave(kind: 'pod' | 'firewalld', failures: Awaited<ReturnType<Table<unknown, unknown>['write']>>): [] {
    const text = kind === 'pod' ? 'setting in a container not put back' : 'left in firewalld until later';
    for (const { key, error } of failures) this.#options.log.warn({ key, error: error.message }, text);
    return [];
  }

  #table(
    kind: RowKind,
    rows: PartRows,
    namespaceFd: number | undefined,
  ): Table<unknown, unknown> | undefined {
    const { tables } = this.#options;
    if (kind !== 'pod') return tables.node[kind] as unknown as Table<unknown, unknown>;
    // The settings have gone with the namespace.
    if (namespaceFd === undefined) return undefined;
    return tables.pod(namespaceFd, rows.pod ?? []) as unknown as Table<unknown, unknown>;
  }
}

const noTable: Pick<Table<unknown, unknown>, 'same' | 'read'> = {
  same: () => false,
  read: async () => new Map(),
};

function forWrite(
  own: ReadonlyMap<string, unknown>,
  kind: RowKind,
  way: Way,
  options: LayerOptions,
): ReadonlyMap<string, unknown> {
  if (kind !== 'attachment' || way === 'delete') return own;
  const rows = own as ReturnType<typeof rowsOf<'attachment'>>;
  return new Map([...rows].map(([key, row]) => [key, forMaking(row, options)]));
}

/** Only making the pair needs the namespace, and nobody else may keep its descriptor. */
function forMaking(row: AttachmentRow, { namespaceFd, reply, begun }: LayerOptions): AttachmentRow {
  return { ...row, pod: row.pod && { ...row.pod, namespaceFd, reply, begun } };
}

function attempt(action: () => void): Error | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

function isBridgeGone({ table, error }: Failed): boolean {
  return table === 'attachment' && error instanceof KernelError && error.code === 'ENODEV';
}

function attachError({ table, error }: Failed, part: Part): CniError {
  if (error instanceof CniError) return error;
  const sandbox = part.rows.attachment?.pod?.sandbox;
  if (table === 'attachment' && error instanceof KernelError && error.code === 'EEXIST') {
    return interfaceExists(part.ifname, sandbox ?? '');
  }
  const place = sandbox === undefined ? '' : ` in ${sandbox}`;
  return new CniError(cniCode.internal, `failed to attach ${part.ifname}${place}: ${error.message}`);
}

export function interfaceExists(ifname: string, sandbox: string): CniError {
  const message = `CNI_IFNAME: interface ${JSON.stringify(ifname)} already exists in ${JSON.stringify(sandbox)}`;
  return new CniError(cniCode.invalidEnvironment, message, ifname);
}
