import type { Problem } from '../core/errors.ts';

/*
 * The API server checks objects before it stores them, but not every server does, and not every old object would
 * pass today. So nothing here believes the types: a field that holds something else is a problem of its own object,
 * and what stands beside it is used.
 */

/** Longest value that is quoted in a problem. */
const QUOTED_CHARACTERS = 60;
const MAX_PORT = 0xffff;

/** Where the problems of one object go, each with the path of its field. */
export type Report = (path: string, message: string) => void;

/** Reports into `problems`; `object` stands before each path. */
export function reportTo(problems: Problem[], object: string): Report {
  return (path, message) => problems.push({ path: `${object}: ${path}`, message });
}

/** A value as a person recognises it in a message: JSON, cut where it is long. */
export function quoted(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > QUOTED_CHARACTERS ? `${text.slice(0, QUOTED_CHARACTERS)}…` : text;
}

/** The objects of a list, each in its place; undefined stands for what is none, and is reported. Absent is empty. */
export function objectsOf<T extends object>(
  list: readonly T[] | null | undefined,
  path: string,
  report: Report,
): readonly (T | undefined)[] {
  const items = itemsOf(list, path, report);
  if (items.every(isObject)) return items as readonly T[];
  return items.map((item, index) => {
    if (isObject(item)) return item as T;
    report(`${path}[${index}]`, `is no object: ${quoted(item)}`);
    return undefined;
  });
}

function isObject(item: unknown): boolean {
  return typeof item === 'object' && item !== null;
}

/** The texts of a list, each in its place; undefined stands for what is none, and is reported. Absent is empty. */
export function textsOf(
  list: readonly string[] | null | undefined,
  path: string,
  report: Report,
): readonly (string | undefined)[] {
  return itemsOf(list, path, report).map((item, index) => {
    if (typeof item === 'string') return item;
    report(`${path}[${index}]`, `is no text: ${quoted(item)}`);
    return undefined;
  });
}

function itemsOf(list: unknown, path: string, report: Report): readonly unknown[] {
  if (list === undefined || list === null) return [];
  if (Array.isArray(list)) return list;
  report(path, `is no list: ${quoted(list)}`);
  return [];
}

/** A flag; `otherwise` when absent, or no flag, which is reported. */
export function flagOf(
  value: boolean | null | undefined,
  otherwise: boolean,
  path: string,
  report: Report,
): boolean {
  if (typeof value === 'boolean') return value;
  if (value !== undefined && value !== null) report(path, `is neither true nor false: ${quoted(value)}`);
  return otherwise;
}

/** A port number; undefined for 0 and when absent, which are the same. */
export function portOf(value: number | null | undefined, path: string, report: Report): number | undefined {
  if (value === undefined || value === null || value === 0) return undefined;
  if (Number.isInteger(value) && value > 0 && value <= MAX_PORT) return value;
  report(path, `is no port number: ${quoted(value)}`);
  return undefined;
}

/** One of the words; undefined when absent, `""`, or another one, which is reported. */
export function wordOf<Word extends string>(
  value: string | null | undefined,
  words: readonly Word[],
  path: string,
  report: Report,
): Word | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  const word = words.find((each) => each === value);
  if (word === undefined) report(path, `is none of ${words.join(', ')}: ${quoted(value)}`);
  return word;
}
