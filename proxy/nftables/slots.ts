/**
 * Puts endpoints in slots 0…N-1 so that as few slots as possible change: whoever has a slot keeps it, newcomers take
 * the slots of those who left, then new ones at the end; holes that remain are filled from the end. An endpoint may
 * be wanted several times, and then has as many slots.
 */
export function placeEndpoints(
  previous: readonly (string | undefined)[],
  wanted: readonly string[],
): readonly string[] {
  if (previous.length === 0 || isSame(previous, wanted)) return wanted;
  const waiting = new Map<string, number>();
  for (const endpoint of wanted) waiting.set(endpoint, (waiting.get(endpoint) ?? 0) + 1);
  const slots = previous.map((endpoint) => {
    const count = endpoint === undefined ? undefined : waiting.get(endpoint);
    if (endpoint === undefined || !count) return undefined;
    waiting.set(endpoint, count - 1);
    return endpoint;
  });
  const newcomers = [...waiting].flatMap(([endpoint, count]) =>
    count === 1 ? endpoint : Array.from({ length: count }, () => endpoint),
  );
  return closeHoles(slots, newcomers);
}

/** After a restart most lists are as they were. */
function isSame(previous: readonly (string | undefined)[], wanted: readonly string[]): boolean {
  return previous.length === wanted.length && wanted.every((endpoint, slot) => previous[slot] === endpoint);
}

function closeHoles(slots: (string | undefined)[], newcomers: readonly string[]): readonly string[] {
  let next = 0;
  for (let slot = 0; slot < slots.length; slot += 1)
    slots[slot] ??= newcomers[next++] ?? takeLast(slots, slot);
  const filled = slots.filter((endpoint) => endpoint !== undefined);
  return filled.concat(newcomers.slice(next));
}

/** Takes the last endpoint behind `slot` away from where it is. */
function takeLast(slots: (string | undefined)[], slot: number): string | undefined {
  while (slots.length > slot + 1) {
    const last = slots.pop();
    if (last !== undefined) return last;
  }
  return undefined;
}
