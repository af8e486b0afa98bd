import { MAX_SLOTS } from './elements.ts';
import type { PlanSize } from './plan.ts';

/** What a layout has room for. */
export type Capacity = PlanSize;

/** Few slots, because the kernel looks at each rule that uses `endpoints` for each element that it takes in. */
export const leastCapacity: Capacity = { frontends: 1 << 10, endpoints: 1 << 12, slots: 16, affinity: false };

/**
 * The capacity for a plan of this size: powers of two that it fills to three quarters at most, because a full set
 * refuses elements, and an almost full one is slow. More capacity means another layout, which is one transaction.
 */
export function capacityFor(size: PlanSize): Capacity {
  return {
    frontends: roomFor(size.frontends, leastCapacity.frontends),
    endpoints: roomFor(size.endpoints, leastCapacity.endpoints),
    slots: roundSlots(size.slots),
    affinity: size.affinity,
  };
}

function roundSlots(count: number): number {
  return Math.min(MAX_SLOTS, powerOfTwo(count, leastCapacity.slots));
}

/** The next capacity; the same where there is none. */
export function largerSlots(slots: number): number {
  return roundSlots(slots + 1);
}

function roomFor(count: number, least: number): number {
  return powerOfTwo(Math.ceil((count * 4) / 3), least);
}

function powerOfTwo(atLeast: number, least: number): number {
  return Math.max(least, 2 ** Math.ceil(Math.log2(Math.max(1, atLeast))));
}

/** Room for both. */
export function largerCapacity(a: Capacity, b: Capacity): Capacity {
  return {
    frontends: Math.max(a.frontends, b.frontends),
    endpoints: Math.max(a.endpoints, b.endpoints),
    slots: Math.max(a.slots, b.slots),
    affinity: a.affinity || b.affinity,
  };
}

/** Whether what has room for `a` has room for `b`. */
export function hasRoomFor(a: Capacity, b: Capacity): boolean {
  return (
    b.frontends <= a.frontends &&
    b.endpoints <= a.endpoints &&
    b.slots <= a.slots &&
    (a.affinity || !b.affinity)
  );
}

/** More chains at once take the kernel longer than making the table anew: it looks at all endpoints for each of them. */
const GROWTH_MAX = 64;

/** Whether all that is missing in `from` are slots, and not too many: chains for these can be added to a table. */
export function canGrow(from: Capacity, to: Capacity): boolean {
  return hasRoomFor({ ...from, slots: to.slots }, to) && to.slots - from.slots <= GROWTH_MAX;
}

/** As the table keeps it with itself, for the next process: after services went, their room is still there. */
export function renderCapacity({ frontends, endpoints, slots, affinity }: Capacity): string {
  return `${frontends} ${endpoints} ${slots} ${affinity ? 'affinity' : 'plain'}`;
}

/** Undefined where the text is none that we write. */
export function parseCapacity(text: string): Capacity | undefined {
  const [, ...parts] = /^(\d{1,9}) (\d{1,9}) (\d{1,4}) (affinity|plain)$/.exec(text) ?? [];
  const [frontends = 0, endpoints = 0, slots = 0] = parts.slice(0, 3).map(Number);
  if (parts.length === 0 || slots > MAX_SLOTS) return undefined;
  return { frontends, endpoints, slots, affinity: parts[3] === 'affinity' };
}
