import type { Problem } from '../../core/errors.ts';
import { parseDuration, renderDuration } from './duration.ts';

/*
 * A file's shape as values: each field reads what was written, with its default, and writes it again. Defaults are as
 * Go code has them: a plain field's default stands for its zero value too, a pointer's only for what was not written.
 */

/** Where a field's value stands, and who wants to know what is wrong with it. */
export interface Place {
  readonly path: string;
  /** Values that cannot be used. */
  readonly problems: Problem[];
  /** Fields that nobody knows: refused when reading strictly. */
  readonly unknown: Problem[];
}

export interface Field<T> {
  /** `undefined` and `null` are a field that was not written. */
  read(value: unknown, place: Place): T;
  /** As plain JSON. */
  write(value: T): unknown;
}

export type FieldValue<F> = F extends Field<infer T> ? T : never;

interface Scalar<T> {
  readonly fallback: T;
  /** What stands for "not written", beside what is not. */
  readonly zero?: T;
  readonly expected: string;
  readonly parse: (value: unknown) => T | undefined;
  readonly write?: (value: T) => unknown;
}

function scalar<T>({ fallback, zero, expected, parse, write = (value) => value }: Scalar<T>): Field<T> {
  return {
    read(value, { path, problems }) {
      if (value === undefined || value === null) return fallback;
      const parsed = parse(value);
      if (parsed === undefined)
        problems.push({ path, message: `is not ${expected}: ${JSON.stringify(value)}` });
      return parsed === undefined || parsed === zero ? fallback : parsed;
    },
    write,
  };
}

export function text(fallback = ''): Field<string> {
  const parse = (value: unknown) => (typeof value === 'string' ? value : undefined);
  return scalar({ fallback, zero: '', expected: 'text', parse });
}

export function flag(fallback = false): Field<boolean> {
  const parse = (value: unknown) => (typeof value === 'boolean' ? value : undefined);
  return scalar({ fallback, expected: 'true or false', parse });
}

/** 32 bits. Other than zero, the default is for a field that was not written: its zero means something. */
export function integer(fallback = 0): Field<number> {
  return scalar({ fallback, expected: 'a whole number', parse: parseInteger });
}

/** An {@link integer} whose zero stands for the default. */
export function positive(fallback: number): Field<number> {
  return scalar({ fallback, zero: 0, expected: 'a whole number', parse: parseInteger });
}

function parseInteger(value: unknown): number | undefined {
  return typeof value === 'number' && value === (value | 0) ? value : undefined;
}

export function real(fallback: number): Field<number> {
  const parse = (value: unknown) => (typeof value === 'number' && Number.isFinite(value) ? value : undefined);
  return scalar({ fallback, zero: 0, expected: 'a number', parse });
}

/** Milliseconds here, Go's text in files. Zero stands for the default, unless `zeroCounts`. */
export function duration(fallbackMs = 0, { zeroCounts = false } = {}): Field<number> {
  const expected = 'a duration such as "30s" or "1h0m0s"';
  const parse = (value: unknown) => (typeof value === 'string' ? parseDuration(value) : undefined);
  const zero = zeroCounts ? undefined : 0;
  return scalar<number>({
    fallback: fallbackMs,
    ...(zero !== undefined && { zero }),
    expected,
    parse,
    write: renderDuration,
  });
}

/** As {@link duration}; a number is nanoseconds. (component-base's TimeOrMetaDuration.) */
export function durationOrNanoseconds(fallbackMs: number): Field<number> {
  const plain = duration(fallbackMs);
  return {
    read: (value, place) => (typeof value === 'number' ? value / 1e6 : plain.read(value, place)),
    write: plain.write,
  };
}

/** Anything that is text or a number: passed on as it is. */
export function quantity(): Field<string | number> {
  const parse = (value: unknown) =>
    typeof value === 'string' || typeof value === 'number' ? value : undefined;
  return scalar<string | number>({ fallback: 0, expected: 'a quantity', parse });
}

export function list<T>(item: Field<T>): Field<T[]> {
  return {
    read(value, place) {
      if (value === undefined || value === null) return [];
      if (Array.isArray(value))
        return value.map((one, index) => item.read(one, { ...place, path: `${place.path}[${index}]` }));
      place.problems.push({ path: place.path, message: `is not a list: ${JSON.stringify(value)}` });
      return [];
    },
    write: (value) => value.map((one) => item.write(one)),
  };
}

/** Names that are not known beforehand. */
export function dictionary<T>(item: Field<T>): Field<Record<string, T>> {
  return {
    read(value, place) {
      return Object.fromEntries(
        Object.entries(readObject(value, place)).map(([name, one]) => [
          name,
          item.read(one, { ...place, path: `${place.path}.${name}` }),
        ]),
      );
    },
    write: (value) => Object.fromEntries(Object.entries(value).map(([name, one]) => [name, item.write(one)])),
  };
}

type Fields = Readonly<Record<string, Field<unknown>>>;
type Values<F extends Fields> = { [Name in keyof F]: FieldValue<F[Name]> };

/** Names as written: kube-proxy's reader, too, tells upper from lower case. */
export function object<F extends Fields>(fields: F): Field<Values<F>> {
  const pathOf = (place: Place, name: string) => (place.path === '' ? name : `${place.path}.${name}`);
  return {
    read(value, place) {
      const written = readObject(value, place);
      for (const name of Object.keys(written)) {
        if (Object.hasOwn(fields, name)) continue;
        place.unknown.push({ path: pathOf(place, name), message: 'is not a field of this kind' });
      }
      const values = Object.entries(fields).map(([name, field]) => {
        const its = Object.hasOwn(written, name) ? written[name] : undefined;
        return [name, field.read(its, { ...place, path: pathOf(place, name) })];
      });
      return Object.fromEntries(values) as Values<F>;
    },
    write: (value) =>
      Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.write(value[name])])),
  };
}

function readObject(value: unknown, { path, problems }: Place): Readonly<Record<string, unknown>> {
  if (value === undefined || value === null) return {};
  if (typeof value === 'object' && !Array.isArray(value)) return value as Record<string, unknown>;
  problems.push({ path: path || '*', message: `is not an object: ${JSON.stringify(value)}` });
  return {};
}
