import { setTimeout as sleep } from 'node:timers/promises';
import { hostCidr, prefixLengthOf } from '../core/address.ts';
import { enterWords } from '../kernel/program.ts';
import { AbandonedKeeper, type AbandonedTimes } from './abandoned.ts';
import type { FaultPoint } from './attacher.ts';
import { BridgeWriter } from './bridge.ts';
import { BridgeKeeper } from './bridge-keeper.ts';
import { Bridges, type Need } from './bridges.ts';
import type { ChangeRecord } from './changes.ts';
import type { HostLocalImport } from './host-local-import.ts';
import { KeptAddresses } from './kept-addresses.ts';
import type { LeaseBook } from './leases.ts';
import type { Log } from './log.ts';
import { NodeLinks } from './node-links.ts';
import type { NodeNetwork } from './node-network.ts';
import type { Part } from './part.ts';
import { KernelTables } from './part-tables.ts';
import { Plugin, type PluginOptions } from './plugin.ts';
import { PortKeeper } from './port-keeper.ts';
import { subnetRange } from './ranges.ts';
import { RowKeeper } from './row-keeper.ts';
import { makeVlanGateway } from './vlan-gateway.ts';
import { WantedRows } from './wanted.ts';

export interface HostOptions extends Pick<PluginOptions, 'elsewhere'> {
  /** The host's network namespace, open as long as the host is; else that of the process. */
  readonly namespaceFd?: number | undefined;
  /** Whether it is the agent's own: whatever else is there is removed, and the node's bridge is there before a pod is. */
  readonly isOwn: boolean;
  /** Of the host's pods. */
  readonly leases: LeaseBook;
  readonly imports: HostLocalImport;
  /** See {@link PluginOptions}. */
  readonly network: () => NodeNetwork | undefined;
  readonly log: Log;
  readonly pass: (point: FaultPoint) => void;
  /** Where changes of what is not ours are written down. */
  readonly record?: ChangeRecord | undefined;
  readonly abandonedTimes?: AbandonedTimes | undefined;
}

/** One network namespace that runtimes run in, served: its side of the pods, and those who keep it as it must be. */
export interface Host extends AsyncDisposable {
  readonly plugin: Plugin;
  readonly tables: KernelTables;
}

/** Brings the host and the leases of an earlier daemon in line. Disposing of it leaves the pods attached. */
export async function openHost(options: HostOptions): Promise<Host> {
  const { namespaceFd, isOwn, leases, log, record } = options;
  await using stack = new AsyncDisposableStack();
  const tables = stack.use(openTables(options));
  stack.defer(() => tables.flush());
  const wanted = new WantedRows();
  const keeper = new RowKeeper({ tables, leases, wanted, log, isOwn });
  const writer = new BridgeWriter({ socket: tables.socket, namespaceFd, record });
  const bridges = openBridges(options, writer, tables);
  await keeper.restore(() => makeBridges(bridges, leases, log));
  const bridgeKeeper = new BridgeKeeper({
    bridges,
    look: (bridge) => writer.look(bridge),
    log,
    onRepaired: () => keeper.onBridge(),
  });
  const ports = new PortKeeper({ tables, wanted, log, indexOf: (bridge) => bridges.indexOf(bridge) });
  const trouble = () => bridgeKeeper.trouble() ?? keeper.trouble();
  const node = new NodeLinks(tables.socket, tables.node.firewalld);
  const enter = enterWords(namespaceFd);
  const kept = stack.use(new KeptAddresses());
  const plugin = new Plugin({ ...options, tables, bridges, wanted, node, enter, kept, trouble });
  const remove = (key: string, parts: readonly Part[]) => plugin.remove(key, parts);
  const abandoned = new AbandonedKeeper({
    tables,
    leases,
    wanted,
    log,
    remove,
    times: options.abandonedTimes,
  });
  keepRunning(stack, (signal) => abandoned.run(signal));
  keepRunning(stack, (signal) => bridgeKeeper.run(signal));
  keepRunning(stack, (signal) => keeper.run(signal));
  keepRunning(stack, (signal) => ports.run(signal));
  if (isOwn) keepRunning(stack, (signal) => keepNodeBridge(bridges, options, signal));
  const running = stack.move();
  return { plugin, tables, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

function openTables({ namespaceFd, log, record }: HostOptions): KernelTables {
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

function openBridges(
  { namespaceFd, leases }: HostOptions,
  writer: BridgeWriter,
  tables: KernelTables,
): Bridges {
  return new Bridges({
    make: (wish) => writer.make(wish),
    makeGateway: (gateway) => makeVlanGateway(gateway, tables, namespaceFd),
    needsOf: (bridge) => needsOf(leases, bridge),
  });
}

function* needsOf(leases: LeaseBook, name: string): Generator<Need> {
  for (const { bridge } of leases.values()) if (bridge?.bridge === name) yield bridge;
}

/** Bridges of pods that an earlier daemon attached. One that cannot be is tried again when a pod needs it. */
async function makeBridges(bridges: Bridges, leases: LeaseBook, log: Log): Promise<void> {
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
  { network, log }: HostOptions,
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
