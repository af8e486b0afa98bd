/**
 * Puts endpoints in slots 0…N-1 so that as few slots as possible change: whoever has a slot keeps it, newcomers take
 * the slots of those who left, then new ones at the end; holes that remain are filled from the end. An endpoint may
 * be wanted several times, and then has as many slots. Those with the same key are the same endpoint.
 */
export function placeEndpoints<T>(
  previous: readonly (T | undefined)[],
  wanted: readonly T[],
  keyOf: (endpoint: T) => string,
): readonly T[] {
  if (previous.length === 0) return wanted;
  const keysBefore = previous.map((endpoint) => (endpoint === undefined ? undefined : keyOf(endpoint)));
  const keys = wanted.map(keyOf);
  if (isSame(keysBefore, keys)) return wanted;
  const waiting = new Map<string, T[]>();
  for (const [index, endpoint] of wanted.entries()) {
    const its = waiting.get(keys[index] as string);
    if (its === undefined) waiting.set(keys[index] as string, [endpoint]);
    else its.push(endpoint);
  }
  const slots = keysBefore.map((key) => (key === undefined ? undefined : waiting.get(key)?.pop()));
  return closeHoles(slots, [...waiting.values()].flat());
}

/** After a restart most lists are as they were. */
function isSame(before: readonly (string | undefined)[], after: readonly string[]): boolean {
  return before.length === after.length && after.every((key, slot) => before[slot] === key);
}

function closeHoles<T>(slots: (T | undefined)[], newcomers: readonly T[]): readonly T[] {
  let next = 0;
  for (let slot = 0; slot < slots.length; slot += 1)
    slots[slot] ??= newcomers[next++] ?? takeLast(slots, slot);
  const filled = slots.filter((endpoint): endpoint is T => endpoint !== undefined);
  return filled.concat(newcomers.slice(next));
}

/** Takes the last endpoint behind `slot` away from where it is. */
function takeLast<T>(slots: (T | undefined)[], slot: number): T | undefined {
  while (slots.length > slot + 1) {
    const last = slots.pop();
    if (last !== undefined) return last;
  }
  return undefined;
}
