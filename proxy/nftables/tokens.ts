/** Tokens leave out the bits of a value that say "local" and "affinity"; these are more than the slots of two lists. */
const MAX_TOKENS = 0x3fff;

/** Names of a port's endpoints that stay theirs while they live, and are not soon another's. */
export type Tokens = ReadonlyMap<string, number>;

/**
 * The token of a port's first endpoint. Of different ports it is mostly another one, so that a port whose id was somebody
 * else's is not taken at the word that was given to their clients.
 */
export function firstToken(port: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < port.length; at += 1) hash = Math.imul(hash ^ port.charCodeAt(at), 0x01000193);
  return 1 + ((hash >>> 0) % MAX_TOKENS);
}

/** The names of these endpoints: those that have one keep it. Where none has, they begin with `first`. */
export function tokensFor(before: Tokens, endpoints: ReadonlySet<string>, first = 1): Tokens {
  const kept = new Map([...before].filter(([endpoint]) => endpoints.has(endpoint)));
  if (kept.size === endpoints.size) return kept.size === before.size ? before : kept;
  const used = new Set(before.values());
  let next = used.size === 0 ? first - 1 : Math.max(...used);
  for (const endpoint of endpoints) {
    if (kept.has(endpoint)) continue;
    do next = next === MAX_TOKENS ? 1 : next + 1;
    while (used.has(next));
    used.add(next);
    kept.set(endpoint, next);
  }
  return kept;
}
