import { join } from 'node:path';
import type { Log } from '../cni/server.ts';
import type { Cidr } from '../core/address.ts';
import type { Lease, PerFamily } from './lease.ts';
import type { DaemonOptions } from './options.ts';
import { recordSettings, settingsRecordName } from './settings-record.ts';
import { type NodeState, readNodeState, renderNodeState, writeIfOther } from './state-file.ts';
import { readSubnetEnv, renderSubnetEnv } from './subnet-env.ts';

/** What the agent writes down: for its next run, for plugins of flannel's, and for a clean-up. */
export class NodeFiles {
  readonly #nodeName: string;
  readonly #log: Log;
  readonly #directory: string;
  readonly #subnetFile: string | undefined;
  readonly #masquerade: boolean;

  constructor({ nodeName, log, stateDir, cni, subnetFile, masquerade = true }: DaemonOptions) {
    this.#nodeName = nodeName;
    this.#log = log;
    this.#directory = stateDir ?? cni.stateDir;
    this.#subnetFile = subnetFile;
    this.#masquerade = masquerade;
  }

  /** What an earlier run wrote down, if it was this node's in these networks. */
  readState(networks: PerFamily<Cidr>): NodeState | undefined {
    const file = join(this.#directory, 'lease.json');
    const state = readNodeState(file, this.#nodeName, networks);
    if (state !== 'foreign') return state;
    this.#log.warn({ file }, 'last known lease ignored: not of this node in this network');
    return undefined;
  }

  /** The subnets of flanneld, or of ours before a reboot. */
  readSubnets(): PerFamily<Cidr> | undefined {
    return readSubnetEnv(this.#subnetFile);
  }

  write({ key, subnets }: Lease, networks: PerFamily<Cidr>, mtuBytes: number): void {
    const state = renderNodeState({ nodeName: this.#nodeName, key, subnets, mtuBytes });
    writeIfOther(join(this.#directory, 'lease.json'), state);
    const masquerade = this.#masquerade;
    if (this.#subnetFile === undefined) return;
    writeIfOther(this.#subnetFile, renderSubnetEnv({ networks, subnets, mtuBytes, masquerade }));
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
