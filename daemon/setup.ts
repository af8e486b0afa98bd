import { dirname } from 'node:path';
import { type Cidr, families, type Ip } from '../core/address.ts';
import type { Backend } from './backend/backend.ts';
import { backendFor } from './backend/backends.ts';
import type { NetworkConfig } from './config.ts';
import type { NodeWishes, PerFamily } from './lease.ts';
import { type DaemonOptions, keptDirectory } from './options.ts';
import type { Underlay, UnderlaySelector } from './underlay.ts';

/** A configuration and what is made of it. */
export interface Setup {
  readonly config: NetworkConfig;
  readonly backend: Backend;
  readonly networks: PerFamily<Cidr>;
}

export function setUp(config: NetworkConfig, options: DaemonOptions): Setup {
  const networks = families.map((family) => [family, config.networks[family]?.network]);
  const { subnetFile } = options;
  const flannelDir = subnetFile && dirname(subnetFile);
  return {
    config,
    backend: backendFor(config.backend, { stateDir: keptDirectory(options), flannelDir }),
    networks: Object.fromEntries(networks),
  };
}

/** What an operator wrote at this node wins over what was said at start. */
export function wishedSelector(given: UnderlaySelector = {}, wishes?: NodeWishes): UnderlaySelector {
  return wishes === undefined ? given : { ...given, publicIps: { ...given.publicIps, ...wishes.publicIps } };
}

/** Of the families that the node has an address of. */
export function announcedIps({ publicIps }: Underlay, wishes: NodeWishes | undefined): PerFamily<Ip> {
  const used = families.filter((family) => publicIps[family] !== undefined);
  return Object.fromEntries(used.map((family) => [family, wishes?.announced[family] ?? publicIps[family]]));
}
