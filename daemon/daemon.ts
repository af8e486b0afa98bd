import { type NodeNetwork, startCniServer } from '../cni/server.ts';
import type { Cidr } from '../core/address.ts';
import { NodeAgent } from './agent.ts';
import type { TunnelPackets } from './backend/backend.ts';
import type { DaemonOptions } from './options.ts';
import type { DaemonStatus } from './status.ts';
import { podAddresses } from './subnets.ts';

export type { DaemonOptions } from './options.ts';

/** A running node agent. Disposing of it leaves the data plane as it is. */
export interface Daemon extends AsyncDisposable {
  /** The node's pod network; undefined as long as pods cannot be attached. */
  network(): NodeNetwork | undefined;
  status(): DaemonStatus;
  /** How many more pods' addresses there are in each of the node's subnets. */
  freeAddresses(): ReadonlyMap<Cidr, number>;
  /** What the backend's own pump counts (udp); undefined where the kernel alone carries packets. */
  tunnelPackets(): TunnelPackets | undefined;
  /** Fulfilled when every row of the plan has been in the kernel; rejected when stopped before. */
  readonly ready: Promise<void>;
}

/**
 * Starts the node agent: holds the node's lease, keeps the kernel in line with all leases, and serves the CNI
 * plugin. Throws when another agent uses the state directory or the kernel gives no sockets; whatever comes
 * later (no store, no interface) is logged, shown in the status and tried again.
 */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  await using stack = new AsyncDisposableStack();
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const agent = stack.use(new NodeAgent(options, signal));
  const { socketPath, stateDir } = options.cni;
  const { namespaceFd, log } = options;
  const network = () => agent.network();
  const cni = stack.use(await startCniServer({ socketPath, stateDir, network, log, namespaceFd }));
  const running = agent.run();
  stack.defer(async () => {
    stop.abort(new Error('the daemon was stopped'));
    await running;
  });
  const owned = stack.move();
  const freeAddresses = () =>
    new Map(
      (network()?.subnets ?? []).map((subnet) => [subnet, podAddresses(subnet) - cni.addressesIn(subnet)]),
    );
  return {
    network,
    status: () => agent.status(freeAddresses()),
    freeAddresses,
    tunnelPackets: () => agent.tunnelPackets(),
    ready: agent.ready,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
