import { mkdirSync, readFileSync } from 'node:fs';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import type { FaultPoint } from './attacher.ts';
import { Bridges } from './bridge.ts';
import { Endpoint } from './endpoint.ts';
import { HostLocalImport } from './host-local-import.ts';
import { Leases } from './leases.ts';
import { lockDirectory } from './lock.ts';
import type { Log } from './log.ts';
import { NodeLinks } from './node-links.ts';
import type { NodeNetwork } from './node-network.ts';
import { KernelTables } from './part-tables.ts';
import { type Call, Plugin } from './plugin.ts';
import { RowKeeper } from './row-keeper.ts';
import { WantedRows } from './wanted.ts';

export type { Log } from './log.ts';
export type { NodeNetwork } from './node-network.ts';

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
  const tables = stack.use(openTables(options));
  stack.defer(() => tables.flush());
  const wanted = new WantedRows();
  const keeper = new RowKeeper({ tables, leases, wanted, log });
  await keeper.restore();
  const socket = stack.use(NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd }));
  const bridges = new Bridges({
    socket,
    namespaceFd,
    gatewaysInUse: (bridge) => gatewaysInUse(leases, bridge),
  });
  const imports = new HostLocalImport({
    leases,
    onReport: (report) => log.info({ ...report }, 'files of host-local taken over'),
  });
  const { network, onFaultPoint: pass = () => {} } = options;
  const node = new NodeLinks(socket);
  const plugin = new Plugin({ tables, bridges, leases, wanted, imports, node, network, log, pass });
  keepRunning(stack, (signal) => keeper.run(signal));
  const serve = (call: Call) => plugin.serve(call);
  stack.use(await Endpoint.open({ socketPath: options.socketPath, serve, log }));
  log.info({ socket: options.socketPath, leases: leases.size }, 'serving the CNI plugin');
  const running = stack.move();
  return { [Symbol.asyncDispose]: () => running.disposeAsync() };
}

function openTables({ namespaceFd, log }: CniServerOptions): KernelTables {
  return new KernelTables({
    namespaceFd,
    onReapFailure: (error) => log.error({ error: error.message }, 'links could not be deleted'),
    onRefused: (error) => log.warn({ error: error.message }, 'nftables refused a change; table made anew'),
  });
}

/** Until the stack is disposed of, which waits for the end. */
function keepRunning(stack: AsyncDisposableStack, run: (signal: AbortSignal) => Promise<void>): void {
  const stop = new AbortController();
  const ended = run(stop.signal);
  stack.defer(async () => {
    stop.abort();
    await ended;
  });
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

function* gatewaysInUse(leases: Leases, name: string) {
  for (const { bridge } of leases.values()) if (bridge?.bridge === name) yield* bridge.gateways;
}
