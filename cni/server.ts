import { mkdirSync, readFileSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { join } from 'node:path';
import type { Cidr } from '../core/address.ts';
import type { AbandonedTimes } from './abandoned.ts';
import type { FaultPoint } from './attacher.ts';
import { ChangeRecord, changesName } from './changes.ts';
import { Endpoint } from './endpoint.ts';
import { openHost } from './host.ts';
import { HostLeases } from './host-leases.ts';
import { HostLocalImport } from './host-local-import.ts';
import { Hosts, type HostTimes } from './hosts.ts';
import { Leases } from './leases.ts';
import { lockDirectory } from './lock.ts';
import type { Log } from './log.ts';
import type { NodeNetwork } from './node-network.ts';
import type { Call } from './plugin.ts';

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
  /** Others than the usual ones only for tests. */
  readonly abandonedTimes?: AbandonedTimes | undefined;
  readonly hostTimes?: HostTimes | undefined;
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
  const { stateDir, log } = options;
  await using stack = new AsyncDisposableStack();
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  stack.use(lockDirectory(stateDir));
  takePrecedence(log);
  const leases = stack.use(Leases.open(stateDir, bootId()));
  const hosts = stack.use(openHosts(options, leases));
  const own = await hosts.open();
  const serve = (call: Call) => hosts.serve(call);
  const { lane } = own.tables.node.attachment;
  stack.use(await Endpoint.open({ socketPath: options.socketPath, serve, lane, log }));
  log.info({ socket: options.socketPath, leases: leases.size }, 'serving the CNI plugin');
  const running = stack.move();
  return {
    addressesIn: (subnet) => leases.heldIn(subnet),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

/**
 * A pod waits for each call while other programs start up on its node, and what we do for it is a millisecond of work.
 * For this thread and those that it makes from now on.
 */
function takePrecedence(log: Log): void {
  try {
    setPriority(constants.priority.PRIORITY_HIGHEST);
  } catch (error) {
    log.info(
      { error: (error as Error).message },
      'calls of the CNI plugin have no precedence (CAP_SYS_NICE)',
    );
  }
}

function openHosts(options: CniServerOptions, book: Leases): Hosts {
  const { stateDir, namespaceFd, network, log, onFaultPoint, abandonedTimes, hostTimes } = options;
  const record = new ChangeRecord(join(stateDir, changesName), log);
  const imports = new HostLocalImport({
    leases: new HostLeases(book, undefined),
    onReport: (report) => log.info({ ...report }, 'files of host-local taken over'),
  });
  const pass = onFaultPoint ?? (() => {});
  const common = { imports, network, log, pass, abandonedTimes };
  const hosts: Hosts = new Hosts({
    namespaceFd,
    leases: book,
    log,
    times: hostTimes,
    open: (other) => {
      const leases = new HostLeases(book, other?.id);
      const elsewhere = (key: string) => hosts.elsewhere(key, other?.id);
      // A clean-up undoes nothing in other namespaces.
      if (other !== undefined) {
        return openHost({ ...common, leases, elsewhere, isOwn: false, namespaceFd: other.namespaceFd });
      }
      return openHost({ ...common, leases, elsewhere, isOwn: true, namespaceFd, record });
    },
  });
  return hosts;
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
