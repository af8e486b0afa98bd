/** Which groups a key is in, and which keys a group has. */
export class KeyIndex {
  readonly #groups = new Map<string, readonly string[]>();
  readonly #keys = new Map<string, Set<string>>();

  /** Puts the key into these groups and no others. The groups before and now, without repetition. */
  set(key: string, groups: readonly string[]): string[] {
    const before = this.#groups.get(key) ?? [];
    for (const group of before) {
      const keys = this.#keys.get(group);
      keys?.delete(key);
      if (keys?.size === 0) this.#keys.delete(group);
    }
    for (const group of groups) {
      const keys = this.#keys.get(group) ?? new Set();
      this.#keys.set(group, keys.add(key));
    }
    if (groups.length > 0) this.#groups.set(key, groups);
    else this.#groups.delete(key);
    return [...new Set([...before, ...groups])];
  }

  keysOf(group: string): readonly string[] {
    return [...(this.#keys.get(group) ?? [])];
  }
}
