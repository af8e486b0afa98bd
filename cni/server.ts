import { mkdirSync, readFileSync } from 'node:fs';
import { reconcile } from '../core/reconcile.ts';
import { layer } from '../core/rows.ts';
import { AttachmentTable } from '../kernel/attachment-table.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import type { FaultPoint } from './attacher.ts';
import { attachmentKey } from './attachment.ts';
import { Bridges } from './bridge.ts';
import { Endpoint } from './endpoint.ts';
import { Leases } from './leases.ts';
import { lockDirectory } from './lock.ts';
import type { NodeNetwork } from './node-network.ts';
import { type Call, Plugin } from './plugin.ts';

export type { NodeNetwork } from './node-network.ts';

/** The few methods of a logger that are used here: pino's, fields first. */
export interface Log {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface CniServerOptions {
  readonly socketPath: string;
  /** On a tmpfs: leases must not outlive the boot, and nothing in it is synced to a disk. */
  readonly stateDir: string;
  /** Undefined: not ready, ADD answers "try again later". The same object as long as nothing has changed. */
  readonly network: () => NodeNetwork | undefined;
  readonly log: Log;
  /** The node's network namespace; else that of the process. */
  readonly namespaceFd?: number | undefined;
  /** Only for tests. */
  readonly onFaultPoint?: ((point: FaultPoint) => void) | undefined;
}

export interface CniServer extends AsyncDisposable {}

/**
 * Serves the CNI plugin: brings the kernel and the leases of an earlier daemon in line, then answers calls of
 * the shim. Throws LockedError when another daemon uses the directory. Disposing of it ends what is running,
 * and leaves the pods attached.
 */
export async function startCniServer(options: CniServerOptions): Promise<CniServer> {
  const { stateDir, namespaceFd, log } = options;
  await using stack = new AsyncDisposableStack();
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  stack.use(lockDirectory(stateDir));
  const leases = stack.use(Leases.open(stateDir, bootId()));
  const onReapFailure = (error: Error) => log.error({ error: error.message }, 'links could not be deleted');
  const table = stack.use(new AttachmentTable({ namespaceFd, onReapFailure }));
  stack.defer(() => table.flush());
  await restore(leases, table, log);
  const socket = stack.use(NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd }));
  const bridges = new Bridges({
    socket,
    namespaceFd,
    gatewaysInUse: (bridge) => gatewaysInUse(leases, bridge),
  });
  const { network, onFaultPoint: pass = () => {} } = options;
  const plugin = new Plugin({ table, bridges, leases, network, pass });
  const serve = (call: Call) => plugin.serve(call);
  stack.use(await Endpoint.open({ socketPath: options.socketPath, serve, log }));
  log.info({ socket: options.socketPath, leases: leases.size }, 'serving the CNI plugin');
  const running = stack.move();
  return { [Symbol.asyncDispose]: () => running.disposeAsync() };
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Pairs without a lease go, and leases without a pair: whoever made them ended in the middle. */
async function restore(leases: Leases, table: AttachmentTable, log: Log): Promise<void> {
  const actual = await table.read();
  for (const attachment of [...leases.values()]) {
    if (actual.get(attachment.row.hostName)?.bridge !== undefined) continue;
    log.warn({ attachment: attachmentKey(attachment) }, 'lease without an interface released');
    leases.release(attachmentKey(attachment));
  }
  const names = new Set([...leases.values()].map(({ row }) => row.hostName));
  const wanted = new Map([...actual].filter(([name]) => names.has(name)));
  const { writes, failures } = await reconcile([layer(table, wanted)]);
  for (const { key, error } of failures)
    log.error({ link: key, error: error.message }, 'interface not removed');
  if (writes > 0) log.warn({ links: writes }, 'interfaces without a lease removed');
  await table.flush();
}

function* gatewaysInUse(leases: Leases, bridge: string) {
  for (const { row, gateways } of leases.values()) if (row.bridge === bridge) yield* gateways;
}
