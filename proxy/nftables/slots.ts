import { type Endpoint, endpointKey } from '../endpoints.ts';

export type Place = Pick<Endpoint, 'ip' | 'port'> | undefined;

/**
 * Puts endpoints in slots 0…N-1 so that as few slots as possible change: whoever has a slot keeps it, newcomers take
 * the slots of those who left, then new ones at the end; holes that remain are filled from the end.
 */
export function placeEndpoints(previous: readonly Place[], wanted: readonly Endpoint[]): readonly Endpoint[] {
  const waiting = new Map(wanted.map((endpoint) => [endpointKey(endpoint), endpoint]));
  const slots: (Endpoint | undefined)[] = previous.map((place) => {
    const key = place && endpointKey(place);
    const kept = key === undefined ? undefined : waiting.get(key);
    if (key !== undefined) waiting.delete(key);
    return kept;
  });
  return closeHoles(slots, [...waiting.values()]);
}

function closeHoles(slots: (Endpoint | undefined)[], newcomers: readonly Endpoint[]): readonly Endpoint[] {
  let next = 0;
  for (let slot = 0; slot < slots.length; slot += 1) {
    if (slots[slot] === undefined) slots[slot] = newcomers[next++] ?? popLast(slots, slot);
  }
  const filled = slots.filter((endpoint) => endpoint !== undefined);
  return filled.concat(newcomers.slice(next));
}

/** Takes the last endpoint behind `slot` away from where it is. */
function popLast(slots: (Endpoint | undefined)[], slot: number): Endpoint | undefined {
  while (slots.length > slot + 1) {
    const last = slots.pop();
    if (last !== undefined) return last;
  }
  return undefined;
}
