import type { Backend } from './backend.ts';
import { spreadOf } from './nftables/balancing.ts';
import { MAX_SLOTS } from './nftables/elements.ts';
import type { Endpoint, ServicePortView } from './view.ts';

/** An endpoint with its part of the new connections, in percent. */
export interface SharedEndpoint extends Pick<Endpoint, 'ip' | 'port' | 'local'> {
  readonly percent: number;
}

/** Parts of one list, in its order, as the backend deals them out. They add up to 100. */
export function sharesOf(
  list: readonly Endpoint[],
  balancing: ServicePortView['balancing'],
  backend: Backend['name'],
): SharedEndpoint[] {
  const parts = backend === 'nftables' ? slotsOf(list, balancing) : weightsOf(list);
  const total = parts.reduce((sum, part) => sum + part, 0);
  return list.map(({ ip, port, local }, index) => {
    const percent = Math.round(((parts[index] ?? 0) / total) * 10_000) / 100;
    return { ip, port, local, percent };
  });
}

/** How many slots each endpoint has. */
function slotsOf(list: readonly Endpoint[], balancing: ServicePortView['balancing']): number[] {
  const { slots } = spreadOf(list.slice(0, MAX_SLOTS), balancing);
  const counts = new Map<Endpoint, number>();
  for (const endpoint of slots) counts.set(endpoint, (counts.get(endpoint) ?? 0) + 1);
  return list.map((endpoint) => counts.get(endpoint) ?? 0);
}

/** When none has a weight, all have the same. */
function weightsOf(list: readonly Endpoint[]): number[] {
  const isWeighted = list.some(({ weight }) => weight > 0);
  return list.map(({ weight }) => (isWeighted ? weight : 1));
}
