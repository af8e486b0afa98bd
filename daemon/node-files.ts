import { join } from 'node:path';
import type { Log } from '../cni/server.ts';
import type { Cidr } from '../core/address.ts';
import type { Lease, PerFamily } from './lease.ts';
import { readMachineIdentity } from './machine-identity.ts';
import { type DaemonOptions, keptDirectory } from './options.ts';
import { recordSettings, settingsRecordName } from './settings-record.ts';
import { type NodeState, readNodeState, renderNodeState, writeIfOther } from './state-file.ts';
import { readSubnetEnv, renderSubnetEnv } from './subnet-env.ts';

export const stateFile = 'lease.json';

/** What the agent writes down: for its next run, for plugins of flannel's, and for a clean-up. */
export class NodeFiles {
  readonly #nodeName: string;
  readonly #log: Log;
  readonly #directory: string;
  /** Outlives a reboot. */
  readonly #keptDirectory: string;
  readonly #machine = readMachineIdentity();
  #isKept = true;
  readonly #subnetFile: string | undefined;
  readonly #masquerade: boolean;

  constructor(options: DaemonOptions) {
    const { nodeName, log, stateDir, cni, subnetFile, masquerade = true } = options;
    this.#nodeName = nodeName;
    this.#log = log;
    this.#directory = stateDir ?? cni.stateDir;
    this.#keptDirectory = keptDirectory(options);
    this.#subnetFile = subnetFile;
    this.#masquerade = masquerade;
  }

  /** What an earlier run wrote down, if it was this node's in these networks. */
  readState(networks: PerFamily<Cidr>): NodeState | undefined {
    const file = join(this.#directory, stateFile);
    const state = readNodeState(file, this.#nodeName, networks);
    if (state !== 'foreign') return state;
    this.#log.warn({ file }, 'last known lease ignored: not of this node in this network');
    return undefined;
  }

  /**
   * What to ask the store for: the lease of before a reboot, if this is not a copy of that machine's disk, or the
   * subnets of flanneld.
   */
  readPrevious(networks: PerFamily<Cidr>): Partial<NodeState> {
    const kept = readNodeState(join(this.#keptDirectory, stateFile), this.#nodeName, networks);
    if (kept !== undefined && kept !== 'foreign' && kept.machine === this.#machine) return kept;
    const subnets = readSubnetEnv(this.#subnetFile);
    return subnets === undefined ? {} : { subnets };
  }

  write(lease: Lease, networks: PerFamily<Cidr>, mtuBytes: number): void {
    const { key, subnets, publicIps, backendData } = lease;
    const [nodeName, machine] = [this.#nodeName, this.#machine];
    const subnetFile = this.#subnetFile;
    const announced = { key, subnets, publicIps, backendData };
    const state = renderNodeState({ nodeName, ...announced, mtuBytes, machine, subnetFile });
    writeIfOther(join(this.#directory, stateFile), state);
    this.#keep(state);
    const masquerade = this.#masquerade;
    if (subnetFile === undefined) return;
    writeIfOther(subnetFile, renderSubnetEnv({ networks, subnets, mtuBytes, masquerade }));
  }

  #keep(state: string): void {
    try {
      writeIfOther(join(this.#keptDirectory, stateFile), state);
      this.#isKept = true;
    } catch (error) {
      const { message } = error as Error;
      if (this.#isKept) this.#log.warn({ error: message }, 'the lease is not on record for after a reboot');
      this.#isKept = false;
    }
  }

  /** To be called before settings of the kernel are changed. */
  recordSettings(wanted: ReadonlyMap<string, string>, actual: ReadonlyMap<string, string>): void {
    try {
      recordSettings(join(this.#directory, settingsRecordName), wanted, actual);
    } catch (error) {
      this.#log.warn({ error: (error as Error).message }, 'settings are not on record for a clean-up');
    }
  }
}
