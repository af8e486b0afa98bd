import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import type { ExecutionContext } from 'ava';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { createNamespace, deleteNamespace, openNamespace } from '../../kernel/netns.ts';
import { type NftTable, openNftSocket } from '../../kernel/nftables.ts';

/** A namespace for one test, with nft as an independent reader and as "somebody else". */
export interface NftSpace {
  readonly path: string;
  readonly fd: number;
  readonly socket: NetlinkSocket;
  /** Runs nft in the namespace: one command, or a whole file on its input. */
  nft(command: string): string;
  load(text: string): void;
}

/** Not the program of that name in node_modules. */
const NFT = '/usr/sbin/nft';
export const NSENTER = '/usr/bin/nsenter';

/** The namespace is removed when the test ends, however it ends. */
export function openNftSpace(t: ExecutionContext): NftSpace {
  const path = `/run/netns/fl-nft-${randomBytes(4).toString('hex')}`;
  mkdirSync('/run/netns', { recursive: true });
  createNamespace(path);
  t.teardown(() => deleteNamespace(path));
  const namespace = openNamespace(path);
  t.teardown(() => namespace[Symbol.dispose]());
  const socket = openNftSocket({ namespaceFd: namespace.fd });
  t.teardown(() => socket[Symbol.dispose]());
  const run = (args: readonly string[], input?: string) =>
    execFileSync(NSENTER, [`--net=${path}`, NFT, ...args], { input, encoding: 'utf8', stdio: 'pipe' });
  return {
    path,
    fd: namespace.fd,
    socket,
    nft: (command) => run(command.split(' ')),
    load: (text) => void run(['-f', '-'], text),
  };
}

/** Makes the table what the rows say; fails the test when the kernel refuses. Gives the number of writes. */
export async function settle(
  t: ExecutionContext,
  table: NftTable,
  rows: ReadonlyMap<string, NftElement>,
): Promise<number> {
  const { writes, failures } = await reconcile([layer(table, rows)]);
  t.deepEqual(
    failures.map(({ key, error }) => `${key}: ${error.message}`),
    [],
  );
  return writes;
}
