import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cidr, hostCidr, prefixLengthOf } from '../core/address.ts';
import type { FaultPoint } from './attacher.ts';
import { BridgeWriter } from './bridge.ts';
import { BridgeKeeper } from './bridge-keeper.ts';
import { Bridges, type Need } from './bridges.ts';
import { ChangeRecord, changesName } from './changes.ts';
import { Endpoint } from './endpoint.ts';
import { HostLocalImport } from './host-local-import.ts';
import { Leases } from './leases.ts';
import { lockDirectory } from './lock.ts';
import type { Log } from './log.ts';
import { NodeLinks } from './node-links.ts';
import type { NodeNetwork } from './node-network.ts';
import { KernelTables } from './part-tables.ts';
import { type Call, Plugin } from './plugin.ts';
import { PortKeeper } from './port-keeper.ts';
import { subnetRange } from './ranges.ts';
import { RowKeeper } from './row-keeper.ts';
import { makeVlanGateway } from './vlan-gateway.ts';
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

export interface CniServer extends AsyncDisposable {
  /** How many addresses of the subnet pods have. */
  addressesIn(subnet: Cidr): number;
}

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
  const record = new ChangeRecord(join(stateDir, changesName), log);
  const tables = stack.use(openTables(options, record));
  stack.defer(() => tables.flush());
  const wanted = new WantedRows();
  const keeper = new RowKeeper({ tables, leases, wanted, log });
  const writer = new BridgeWriter({ socket: tables.socket, namespaceFd, record });
  const bridges = openBridges(options, writer, tables, leases);
  await keeper.restore(() => makeBridges(bridges, leases, log));
  const imports = new HostLocalImport({
    leases,
    onReport: (report) => log.info({ ...report }, 'files of host-local taken over'),
  });
  const { network, onFaultPoint: pass = () => {} } = options;
  const node = new NodeLinks(tables.socket);
  const bridgeKeeper = new BridgeKeeper({
    bridges,
    look: (bridge) => writer.look(bridge),
    log,
    onRepaired: () => keeper.onBridge(),
  });
  const ports = new PortKeeper({ tables, wanted, log, indexOf: (bridge) => bridges.indexOf(bridge) });
  const trouble = () => bridgeKeeper.trouble() ?? keeper.trouble();
  const plugin = new Plugin({ tables, bridges, leases, wanted, imports, node, network, log, pass, trouble });
  keepRunning(stack, (signal) => bridgeKeeper.run(signal));
  keepRunning(stack, (signal) => keeper.run(signal));
  keepRunning(stack, (signal) => ports.run(signal));
  keepRunning(stack, (signal) => keepNodeBridge(bridges, options, signal));
  const serve = (call: Call) => plugin.serve(call);
  const { lane } = tables.node.attachment;
  stack.use(await Endpoint.open({ socketPath: options.socketPath, serve, lane, log }));
  log.info({ socket: options.socketPath, leases: leases.size }, 'serving the CNI plugin');
  const running = stack.move();
  return {
    addressesIn: (subnet) => leases.heldIn(subnet),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

function openTables({ namespaceFd, log }: CniServerOptions, record: ChangeRecord): KernelTables {
  return new KernelTables({
    namespaceFd,
    record,
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

function openBridges(
  { namespaceFd }: CniServerOptions,
  writer: BridgeWriter,
  tables: KernelTables,
  leases: Leases,
): Bridges {
  return new Bridges({
    make: (wish) => writer.make(wish),
    makeGateway: (gateway) => makeVlanGateway(gateway, tables, namespaceFd),
    needsOf: (bridge) => needsOf(leases, bridge),
  });
}

function* needsOf(leases: Leases, name: string): Generator<Need> {
  for (const { bridge } of leases.values()) if (bridge?.bridge === name) yield bridge;
}

/** Bridges of pods that an earlier daemon attached. One that cannot be is tried again when a pod needs it. */
async function makeBridges(bridges: Bridges, leases: Leases, log: Log): Promise<void> {
  const needs = new Map(
    [...leases.values()].flatMap(({ bridge }) => (bridge ? [[bridge.bridge, bridge]] : [])),
  );
  for (const need of needs.values()) {
    await Promise.resolve(bridges.ensure(need)).catch((error: Error) => {
      log.error({ bridge: need.bridge, error: error.message }, 'bridge not brought in line');
    });
  }
}

/** The first pod of the node waits for no bridge. */
async function keepNodeBridge(
  bridges: Bridges,
  { network, log }: CniServerOptions,
  signal: AbortSignal,
): Promise<void> {
  let kept: NodeNetwork | undefined;
  for (; !signal.aborted; await sleep(networkPollMs, undefined, { signal }).catch(() => {})) {
    const node = network();
    if (node === undefined || node === kept) continue;
    kept = node;
    const need = nodeBridge(node);
    if (need === undefined) continue;
    await bridges.keep(need).catch((error: Error) => {
      log.error({ bridge: need.bridge, error: error.message }, "the node's bridge could not be made");
    });
  }
}

/** Who decides about the node does not tell when it has. */
const networkPollMs = 200;

function nodeBridge({ name, mtuBytes, subnets }: NodeNetwork): Need | undefined {
  const gateways = subnets.flatMap((subnet) => {
    const range = subnetRange(subnet);
    return typeof range === 'string' ? [] : [hostCidr(range.gateway, prefixLengthOf(subnet))];
  });
  return gateways.length === 0 ? undefined : { bridge: name, mtuBytes, gateways };
}
