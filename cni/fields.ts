import type { Problem } from '../core/errors.ts';

/** A JSON object by lower-case key: CNI configurations are read as Go reads them. */
export type Fields = ReadonlyMap<string, unknown>;

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Keys match in any case, of equal keys the last wins, null is absent (Go's encoding/json). */
export function foldKeys(object: Record<string, unknown>): Fields {
  const fields = new Map<string, unknown>();
  for (const key in object) {
    const value = object[key];
    if (value !== null) fields.set(key.toLowerCase(), value);
  }
  return fields;
}

const noFields: Fields = new Map();

/**
 * Reads typed values out of {@link Fields}, noting a {@link Problem} with its path for each value of the wrong
 * type. What is absent or wrong comes out as undefined (lists: empty), so that reading can go on.
 */
export class FieldReader {
  readonly #fields: Fields;
  readonly #path: string;
  readonly #problems: Problem[];

  constructor(fields: Fields, problems: Problem[], path = '') {
    this.#fields = fields;
    this.#problems = problems;
    this.#path = path;
  }

  #pathOf(key: string): string {
    return this.#path === '' ? key : `${this.#path}.${key}`;
  }

  problem(key: string, message: string): undefined {
    this.#problems.push({ path: this.#pathOf(key), message });
    return undefined;
  }

  #value<T>(key: string, expected: string, is: (value: unknown) => value is T): T | undefined {
    const value = this.#fields.get(key.toLowerCase());
    if (value === undefined || is(value)) return value;
    return this.problem(key, `must be ${expected}, not ${JSON.stringify(value)}`);
  }

  has(key: string): boolean {
    return this.#fields.has(key.toLowerCase());
  }

  text(key: string): string | undefined {
    return this.#value(key, 'text', (value) => typeof value === 'string');
  }

  flag(key: string): boolean | undefined {
    return this.#value(key, 'true or false', (value) => typeof value === 'boolean');
  }

  /** A whole number from `least` to `most`. */
  integer(key: string, least: number, most: number): number | undefined {
    const is = (value: unknown): value is number =>
      Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
    return this.#value(key, `a whole number from ${least} to ${most}`, is);
  }

  /** Text that `parse` takes; `what` says what it should be, such as "an IP address". Empty text is absent. */
  parsed<T>(key: string, what: string, parse: (text: string) => T | undefined): T | undefined {
    const text = this.text(key);
    if (text === undefined || text === '') return undefined;
    return parse(text) ?? this.problem(key, `must be ${what}, not ${JSON.stringify(text)}`);
  }

  texts(key: string): readonly string[] {
    const is = (value: unknown): value is string[] =>
      Array.isArray(value) && value.every((entry) => typeof entry === 'string');
    return this.#value(key, 'a list of texts', is) ?? [];
  }

  /** A nested object; an absent one reads as empty. */
  object(key: string): FieldReader {
    const value = this.#value(key, 'an object', isObject);
    return new FieldReader(
      value === undefined ? noFields : foldKeys(value),
      this.#problems,
      this.#pathOf(key),
    );
  }

  /** A list, entry by entry with its path; what is not a list is a problem. */
  list(key: string): readonly unknown[] {
    return this.#value(key, 'a list', (value): value is unknown[] => Array.isArray(value)) ?? [];
  }

  /** One entry of {@link list} as an object. */
  entry(path: string, value: unknown): FieldReader | undefined {
    if (isObject(value)) return new FieldReader(foldKeys(value), this.#problems, this.#pathOf(path));
    return this.problem(path, `must be an object, not ${JSON.stringify(value)}`);
  }
}
