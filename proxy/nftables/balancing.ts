import type { Endpoint, ServicePortView } from '../view.ts';
import { MAX_SLOTS, maglevCodes } from './elements.ts';
import { maglevSize, maglevTable } from './maglev.ts';

/** What new connections are spread over. */
export interface Spread {
  /** The endpoint of each slot; the same endpoint may have several. */
  readonly slots: readonly Endpoint[];
  /** Every endpoint keeps to its slot: a place in a table. Else only how often it is there counts. */
  readonly isTable: boolean;
  /** What stands for the number of slots in a frontend's value. */
  readonly code: number;
}

/** Slots for weights, however many endpoints there are; each more endpoint makes room for some more. */
const SLOTS_FOR_WEIGHTS = 128;
const SLOTS_FOR_WEIGHT = 4;

/** The slots of one list. */
export function spreadOf(endpoints: readonly Endpoint[], balancing: ServicePortView['balancing']): Spread {
  if (endpoints.length > 1 && balancing === 'maglev') {
    const size = maglevSize(endpoints.length);
    return { slots: maglevTable(endpoints, size), isTable: true, code: maglevCodes[size] };
  }
  const all = weighted(endpoints);
  const slots = all.length > MAX_SLOTS ? all.slice(0, MAX_SLOTS) : all;
  return { slots, isTable: false, code: slots.length };
}

/** Each endpoint as often as its weight says, in the smallest numbers that do, and in few where they would be many. */
function weighted(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  const [first] = endpoints;
  if (first === undefined || endpoints.every(({ weight }) => weight === first.weight)) return endpoints;
  const divisor = endpoints.reduce((sum, { weight }) => greatestDivisor(sum, weight), 0);
  const total = endpoints.reduce((sum, { weight }) => sum + weight / divisor, 0);
  const room = Math.min(MAX_SLOTS, Math.max(SLOTS_FOR_WEIGHTS, endpoints.length * SLOTS_FOR_WEIGHT));
  const scale = Math.min(1, room / total) / divisor;
  return endpoints.flatMap((endpoint) => {
    const count = endpoint.weight === 0 ? 0 : Math.max(1, Math.round(endpoint.weight * scale));
    return Array.from({ length: count }, () => endpoint);
  });
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
