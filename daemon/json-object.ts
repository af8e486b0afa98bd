import {
  type Cidr,
  type Family,
  familyOf,
  type Ip,
  networkOf,
  parseHostCidr,
  parseIp,
} from '../core/address.ts';
import type { Problem } from '../core/errors.ts';

/**
 * A JSON object whose keys are read in either case, as Go's encoding/json does. Null counts as absent. What is
 * wrong is added to the problems, with its path, and reads as undefined.
 */
export class JsonObject {
  readonly #values = new Map<string, { key: string; value: unknown }>();
  readonly #read = new Set<string>();
  readonly #path: string;
  readonly #problems: Problem[];

  constructor(value: unknown, path: string, problems: Problem[]) {
    this.#path = path;
    this.#problems = problems;
    if (value === undefined) return;
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      problems.push({ path: path || '(text)', message: `is not an object: ${JSON.stringify(value)}` });
      return;
    }
    for (const [key, part] of Object.entries(value)) {
      const twin = this.#values.get(key.toLowerCase());
      if (twin) this.problem(key, `is given twice, also as ${twin.key}`);
      if (part !== null) this.#values.set(key.toLowerCase(), { key, value: part });
    }
  }

  problem(key: string, message: string): undefined {
    this.#problems.push({ path: this.#pathOf(key), message });
    return undefined;
  }

  has(key: string): boolean {
    return this.#values.has(key.toLowerCase());
  }

  /** Paths of the keys that nobody asked for. */
  unread(): string[] {
    const left = [...this.#values].filter(([lower]) => !this.#read.has(lower));
    return left.map(([, { key }]) => this.#pathOf(key));
  }

  /** These keys mean something to others only. */
  skip(...keys: readonly string[]): void {
    for (const key of keys) this.#take(key);
  }

  #pathOf(key: string): string {
    return this.#path ? `${this.#path}.${key}` : key;
  }

  #take(key: string): unknown {
    this.#read.add(key.toLowerCase());
    return this.#values.get(key.toLowerCase())?.value;
  }

  object(key: string): JsonObject {
    return new JsonObject(this.#take(key), this.#pathOf(key), this.#problems);
  }

  boolean(key: string, absent: boolean): boolean {
    const value = this.#take(key) ?? absent;
    if (typeof value === 'boolean') return value;
    this.problem(key, `is not true or false: ${JSON.stringify(value)}`);
    return absent;
  }

  string(key: string): string | undefined {
    const value = this.#take(key);
    if (value === undefined || typeof value === 'string') return value;
    return this.problem(key, `is not a string: ${JSON.stringify(value)}`);
  }

  /** One of the given words, the first where there is none. */
  word<const W extends string>(key: string, words: readonly [W, ...W[]]): W {
    const text = this.string(key);
    const word = words.find((one) => one === text);
    if (word === undefined && text !== undefined && text !== '') {
      this.problem(key, `is not ${words.map((one) => `"${one}"`).join(' or ')}: ${JSON.stringify(text)}`);
    }
    return word ?? words[0];
  }

  integer(key: string, min: number, max: number): number | undefined {
    const value = this.#take(key);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    return this.problem(key, `is not a whole number from ${min} to ${max}: ${JSON.stringify(value)}`);
  }

  /** Host bits are cleared, as flannel does. */
  cidr(key: string, family: Family): Cidr | undefined {
    const text = this.string(key);
    if (text === undefined) return undefined;
    const parsed = parseHostCidr(text);
    if (parsed !== undefined && familyOf(parsed) === family) return networkOf(parsed);
    return this.problem(key, `is not an IPv${family} network: ${JSON.stringify(text)}`);
  }

  ip(key: string, family: Family): Ip | undefined {
    const text = this.string(key);
    if (text === undefined) return undefined;
    const parsed = parseIp(text);
    if (parsed !== undefined && familyOf(parsed) === family) return parsed;
    return this.problem(key, `is not an IPv${family} address: ${JSON.stringify(text)}`);
  }
}
