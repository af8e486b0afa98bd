import type { NodeNetwork } from '../cni/server.ts';
import { type Cidr, families } from '../core/address.ts';
import type { PerFamily } from './lease.ts';
import type { DaemonOptions } from './options.ts';

/** What pods here are attached to, from the moment when that is known. */
export class PodNetwork {
  readonly #bridge: string;
  readonly #masquerade: boolean;
  readonly #log: DaemonOptions['log'];
  #network: NodeNetwork | undefined;

  constructor({ cni, masquerade = true, log }: DaemonOptions) {
    this.#bridge = cni.bridge ?? 'cni0';
    this.#masquerade = masquerade;
    this.#log = log;
  }

  get current(): NodeNetwork | undefined {
    return this.#network;
  }

  /** The CNI server wants the same object as long as nothing has changed. */
  offer(perFamily: PerFamily<Cidr>, mtuBytes: number): void {
    const subnets = families.flatMap((family) => perFamily[family] ?? []);
    const network = { name: this.#bridge, subnets, mtuBytes, masquerade: this.#masquerade };
    if (JSON.stringify(network) === JSON.stringify(this.#network)) return;
    this.#network = network;
    this.#log.info(network, 'pods can be attached');
  }
}
