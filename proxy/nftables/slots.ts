/**
 * Puts endpoints in slots 0…N-1 so that as few slots as possible change: whoever has a slot keeps it, newcomers take
 * the slots of those who left, then new ones at the end; holes that remain are filled from the end.
 */
export function placeEndpoints(
  previous: readonly (string | undefined)[],
  wanted: readonly string[],
): readonly string[] {
  if (previous.length === 0 || isSame(previous, wanted)) return wanted;
  const waiting = new Set(wanted);
  const slots = previous.map((endpoint) => {
    return endpoint !== undefined && waiting.delete(endpoint) ? endpoint : undefined;
  });
  return closeHoles(slots, [...waiting]);
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
