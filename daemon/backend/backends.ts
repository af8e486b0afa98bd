import type { Family } from '../../core/address.ts';
import type { JsonObject } from '../json-object.ts';
import { alloc } from './alloc.ts';
import type { Backend, BackendConfig, BackendHome, BackendKind } from './backend.ts';
import { hostGw } from './host-gw.ts';
import { ipip } from './ipip.ts';
import { udp } from './udp.ts';
import { vxlan } from './vxlan.ts';
import { wireguard } from './wireguard.ts';

const kinds: ReadonlyMap<string, BackendKind> = new Map(
  [vxlan, hostGw, udp, ipip, wireguard, alloc].map((kind) => [kind.type, kind as unknown as BackendKind]),
);

/** What the absence of a type means, to flannel as well. */
const ABSENT_TYPE = 'udp';

export const backendTypes: readonly string[] = [...kinds.keys()];

/** Reads the `Backend` object of a network configuration; undefined, with a problem noted, for an unknown type. */
export function parseBackend(options: JsonObject, families: readonly Family[]): BackendConfig | undefined {
  const given = options.string('Type') ?? ABSENT_TYPE;
  const kind = kinds.get(given.toLowerCase());
  if (kind !== undefined) return kind.parse(options, families);
  return options.problem(
    'Type',
    `${JSON.stringify(given)} is not supported; use one of ${backendTypes.join(', ')}`,
  );
}

export function backendFor(config: BackendConfig, home: BackendHome): Backend {
  const kind = kinds.get(config.type);
  if (kind === undefined) throw new TypeError(`backend ${config.type}: there is no such backend`);
  return kind.make(config, home);
}
