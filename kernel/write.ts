import type { Change, Failure, Table } from '../core/rows.ts';
import { isMissing, KernelError } from './errors.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/** What a table does for one change: a message, or why there cannot be one. */
export type Encode<K, V> = (change: Change<K, V>) => NetlinkMessage | KernelError;

/**
 * The `write` of tables with one message a row: all in one submit. Rows that are gone already, and rows made
 * that were there exactly as wanted, are no failures.
 */
export async function writeRows<K, V>(
  table: Pick<Table<K, V>, 'read' | 'same'>,
  socket: NetlinkSocket,
  changes: readonly Change<K, V>[],
  encode: Encode<K, V>,
): Promise<Failure<K>[]> {
  const encoded = changes.map((change) => ({ change, message: encode(change) }));
  const sent = encoded.filter(({ message }) => !(message instanceof KernelError));
  const outcomes = await socket.submit(sent.map(({ message }) => message as NetlinkMessage));
  const errors = new Map<Change<K, V>, KernelError>();
  for (const { change, message } of encoded) if (message instanceof KernelError) errors.set(change, message);
  outcomes.forEach((error, index) => {
    const change = sent[index]?.change;
    if (error !== undefined && change !== undefined) errors.set(change, error);
  });
  return failuresOf(table, errors);
}

/** Errors as failures, without those that say what was wanted anyway. */
export async function failuresOf<K, V>(
  table: Pick<Table<K, V>, 'read' | 'same'>,
  errors: ReadonlyMap<Change<K, V>, KernelError>,
): Promise<Failure<K>[]> {
  const exists = [...errors].some(([{ kind }, { code }]) => kind === 'create' && code === 'EEXIST');
  const actual = exists ? await table.read() : undefined;
  const failures: Failure<K>[] = [];
  for (const [change, error] of errors) {
    if (change.kind === 'delete' && isMissing(error)) continue;
    const there = change.kind === 'create' ? actual?.get(change.key) : undefined;
    if (there !== undefined && change.kind === 'create' && table.same(change.wanted, there)) continue;
    failures.push({ key: change.key, kind: change.kind, error });
  }
  return failures;
}
