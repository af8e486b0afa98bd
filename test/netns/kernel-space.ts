import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import type { ExecutionContext } from 'ava';
import { reconcile } from '../../core/reconcile.ts';
import { layer, type Table } from '../../core/rows.ts';
import { LINK_ALIAS_PREFIX } from '../../kernel/linkindex.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { createNamespace, deleteNamespace, openNamespace } from '../../kernel/netns.ts';

/** A network namespace for one test, with iproute2 as an independent reader and as "somebody else". */
export interface Space {
  readonly name: string;
  readonly path: string;
  readonly fd: number;
  readonly socket: NetlinkSocket;
  /** Runs `ip` in the namespace, one command a line, words parted by spaces. */
  ip(commands: string): void;
  /** What `ip -j` (or `bridge -j`) shows. */
  show(command: string, tool?: 'ip' | 'bridge'): Shown[];
}

/** An object of iproute2's JSON; its empty ones are left out. */
export type Shown = Record<string, unknown>;

/** The namespace is removed when the test ends, however it ends. */
export function openSpace(t: ExecutionContext): Space {
  const name = `fl-test-${randomBytes(4).toString('hex')}`;
  const path = `/run/netns/${name}`;
  mkdirSync('/run/netns', { recursive: true });
  createNamespace(path);
  t.teardown(() => deleteNamespace(path));
  const namespace = openNamespace(path);
  t.teardown(() => namespace[Symbol.dispose]());
  const socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: namespace.fd });
  t.teardown(() => socket[Symbol.dispose]());
  const ip = (commands: string) => {
    for (const line of commands.trim().split('\n')) iproute('ip', ['-n', name, ...words(line)]);
  };
  const show = (command: string, tool: 'ip' | 'bridge' = 'ip') => {
    const text = iproute(tool, ['-n', name, '-j', '-d', ...words(command)]);
    const shown = text.trim() === '' ? [] : (JSON.parse(text) as Shown[]);
    return shown.filter((object) => Object.keys(object).length > 0);
  };
  return { name, path, fd: namespace.fd, socket, ip, show };
}

/** `"two words"` in quotes are one. */
function words(line: string): string[] {
  return (line.match(/"[^"]*"|\S+/g) ?? []).map((word) => word.replaceAll('"', ''));
}

function iproute(tool: string, args: readonly string[]): string {
  return execFileSync(`/usr/sbin/${tool}`, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/**
 * Two links to put rows on: "one" and "two" are ours, "foreign" is not. They are ends of veth pairs, up.
 */
export function addLinks({ ip }: Space): void {
  for (const name of ['one', 'two', 'foreign']) ip(`link add ${name} type veth peer name ${name}-peer`);
  // Else it would go on changing by itself while duplicate addresses are looked for.
  ip('link set foreign addrgenmode none');
  for (const name of ['one', 'two', 'foreign']) ip(`link set ${name}-peer up\nlink set ${name} up`);
  ip(`
    link set one alias "${LINK_ALIAS_PREFIX} one"
    link set two alias "${LINK_ALIAS_PREFIX} two"`);
}

export interface Reconciled {
  readonly writes: number;
  /** "create KEY: EEXIST" */
  readonly failures: readonly string[];
}

/** Makes a table what it is to be. */
export async function make<V>(
  table: Table<string, V>,
  key: (row: V) => string,
  rows: readonly V[],
): Promise<Reconciled> {
  const wanted = new Map(rows.map((row) => [key(row), row]));
  const { writes, failures } = await reconcile([layer(table, wanted)]);
  const texts = failures.map(
    ({ kind, key: of, error }) => `${kind} ${of}: ${(error as { code?: string }).code}`,
  );
  return { writes, failures: texts };
}

/**
 * Makes a table what it is to be, and asserts that nothing failed, that the kernel then holds these rows and
 * that a second run writes nothing. Gives the number of writes.
 */
export async function settle<V>(
  t: ExecutionContext,
  table: Table<string, V>,
  key: (row: V) => string,
  rows: readonly V[],
): Promise<number> {
  const { writes, failures } = await make(table, key, rows);
  t.deepEqual(failures, []);
  const actual = await table.read();
  t.deepEqual([...actual.keys()].toSorted(), rows.map(key).toSorted());
  for (const row of rows) {
    const there = actual.get(key(row));
    t.true(there !== undefined && table.same(row, there), `${key(row)}: ${JSON.stringify(there)}`);
  }
  t.deepEqual(await make(table, key, rows), { writes: 0, failures: [] });
  return writes;
}
