import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Cidr, cidrContains, families, familyOf, type Ip, parseCidr, parseIp } from '../core/address.ts';
import type { Lease, PerFamily } from './lease.ts';

/** What this node remembers of itself, so that a restart without its store goes on as before. */
export interface NodeState {
  readonly nodeName: string;
  readonly key: string;
  readonly subnets: Lease['subnets'];
  /** What the lease was announced with. */
  readonly publicIps?: Lease['publicIps'];
  readonly backendData?: Lease['backendData'];
  readonly mtuBytes: number;
  /** See readMachineIdentity. */
  readonly machine?: string;
  /** Where subnet.env was written, for a clean-up. */
  readonly subnetFile?: string | undefined;
}

/** Readers see the old text or the new one, never half of it. Makes the directory. Mode 0644. */
export function writeFileAtomic(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const temporary = `${path}.${process.pid}.new`;
  writeFileSync(temporary, text, { mode: 0o644, flush: true });
  renameSync(temporary, path);
}

/** As {@link writeFileAtomic}, where the file does not say so already. */
export function writeIfOther(path: string, text: string): void {
  if (readFileIfThere(path) !== text) writeFileAtomic(path, text);
}

/** undefined when there is no such file. */
export function readFileIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

export function renderNodeState(state: NodeState): string {
  return `${JSON.stringify(state, null, 2)}\n`;
}

/** undefined for anything that {@link renderNodeState} did not write for this node. */
export function parseNodeState(text: string, nodeName: string): NodeState | undefined {
  let value: Partial<Record<keyof NodeState, unknown>>;
  try {
    value = JSON.parse(text) as typeof value;
  } catch {
    return undefined;
  }
  const { key, mtuBytes, machine, backendData, subnetFile } = value ?? {};
  const subnets = parsePerFamily(value?.subnets, parseCidr);
  const publicIps = parsePerFamily(value?.publicIps, parseIp);
  if (value?.nodeName !== nodeName || typeof key !== 'string' || typeof mtuBytes !== 'number')
    return undefined;
  if (subnets === undefined) return undefined;
  return {
    ...{ nodeName, key, subnets, mtuBytes },
    ...(publicIps && { publicIps }),
    ...(typeof machine === 'string' && { machine }),
    ...(typeof subnetFile === 'string' && { subnetFile }),
    ...(backendData !== null && typeof backendData === 'object' && { backendData }),
  };
}

/** Of whatever node wrote it; undefined where there is no record of one. */
export function readSubnetFileRecord(path: string): string | undefined {
  try {
    const { subnetFile } = JSON.parse(readFileIfThere(path) ?? '{}') as { subnetFile?: unknown };
    return typeof subnetFile === 'string' ? subnetFile : undefined;
  } catch {
    return undefined; // not of ours
  }
}

/**
 * What an earlier run on this node wrote down; undefined where there is none, "foreign" where it is not of this node or
 * not of these networks.
 */
export function readNodeState(
  path: string,
  nodeName: string,
  networks: PerFamily<Cidr>,
): NodeState | 'foreign' | undefined {
  const text = readFileIfThere(path);
  if (text === undefined) return undefined;
  const state = parseNodeState(text, nodeName);
  const isInside = families.every((family) => {
    const [network, subnet] = [networks[family], state?.subnets[family]];
    return network === undefined || subnet === undefined ? network === subnet : cidrContains(network, subnet);
  });
  return state !== undefined && isInside ? state : 'foreign';
}

function parsePerFamily<T extends Ip | Cidr>(
  value: unknown,
  parse: (text: string) => T | undefined,
): PerFamily<T> | undefined {
  if (value === null || typeof value !== 'object') return undefined;
  const found = families.flatMap((family) => {
    const text = (value as Record<number, unknown>)[family];
    const parsed = typeof text === 'string' ? parse(text) : undefined;
    return parsed !== undefined && familyOf(parsed) === family ? [[family, parsed] as const] : [];
  });
  return found.length === 0 ? undefined : Object.fromEntries(found);
}
