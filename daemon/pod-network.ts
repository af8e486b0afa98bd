import type { NodeNetwork } from '../cni/server.ts';
import { type Cidr, families } from '../core/address.ts';
import type { Lease, PerFamily } from './lease.ts';
import type { NodeFiles } from './node-files.ts';
import type { DaemonOptions } from './options.ts';
import type { Setup } from './setup.ts';
import type { NodeState } from './state-file.ts';
import type { Underlay } from './underlay.ts';

/** What pods here are attached to, from the moment when that is known, and its record for the next run. */
export class PodNetwork {
  readonly #bridge: string;
  readonly #masquerade: boolean;
  readonly #log: DaemonOptions['log'];
  readonly #files: NodeFiles;
  #remembered: NodeState | undefined;
  #network: NodeNetwork | undefined;

  constructor({ cni, masquerade = true, log }: DaemonOptions, files: NodeFiles) {
    this.#bridge = cni.bridge ?? 'cni0';
    this.#masquerade = masquerade;
    this.#log = log;
    this.#files = files;
  }

  get current(): NodeNetwork | undefined {
    return this.#network;
  }

  /** What an earlier run wrote down since the machine started. */
  get remembered(): NodeState | undefined {
    return this.#remembered;
  }

  /** What an earlier run wrote down lets pods start before the store answers. */
  remember(networks: PerFamily<Cidr>): void {
    const state = this.#files.readState(networks);
    if (state === undefined) return;
    this.#remembered = state;
    this.#offer(state.subnets, state.mtuBytes);
    this.#log.info({ lease: state.key }, 'last known lease is used until the store answers');
  }

  /** What to ask the store for where this run has no lease yet. */
  previous(networks: PerFamily<Cidr>): Partial<NodeState> {
    return this.#remembered ?? this.#files.readPrevious(networks);
  }

  publish(lease: Lease, { backend, networks }: Setup, underlay: Underlay): void {
    const mtuBytes = backend.mtuBytes(underlay);
    this.#offer(lease.subnets, mtuBytes);
    this.#files.write(lease, networks, mtuBytes);
  }

  /** The CNI server wants the same object as long as nothing has changed. */
  #offer(perFamily: PerFamily<Cidr>, mtuBytes: number): void {
    const subnets = families.flatMap((family) => perFamily[family] ?? []);
    const network = { name: this.#bridge, subnets, mtuBytes, masquerade: this.#masquerade };
    if (JSON.stringify(network) === JSON.stringify(this.#network)) return;
    this.#network = network;
    this.#log.info(network, 'pods can be attached');
  }
}
