/** Tokens leave out the bits of a value that say "local" and "affinity"; these are more than the slots of two lists. */
const MAX_TOKENS = 0x3fff;

/** Names of a port's endpoints that stay theirs while they live, and are not soon another's. */
export type Tokens = ReadonlyMap<string, number>;

/** The names of these endpoints: those that have one keep it. */
export function tokensFor(before: Tokens, endpoints: ReadonlySet<string>): Tokens {
  const kept = new Map([...before].filter(([endpoint]) => endpoints.has(endpoint)));
  if (kept.size === endpoints.size) return kept.size === before.size ? before : kept;
  const used = new Set(before.values());
  let next = Math.max(0, ...used);
  for (const endpoint of endpoints) {
    if (kept.has(endpoint)) continue;
    do next = next === MAX_TOKENS ? 1 : next + 1;
    while (used.has(next));
    used.add(next);
    kept.set(endpoint, next);
  }
  return kept;
}
