import { badRequest } from './failures.ts';
import type { Kind } from './kind.ts';
import { labelValueProblem, qualifiedNameProblem } from './names.ts';
import type { ApiObject, Stored } from './stored.ts';

/** undefined: everything matches, and nothing need be parsed to know it. */
export type Matcher = ((stored: Stored) => boolean) | undefined;

type Labels = Readonly<Record<string, string>>;
type Test<Values> = (values: Values) => boolean;

/** Both selectors of a request as one test. Throws ApiError 400. */
export function parseSelectors(
  kind: Kind,
  labelSelector: string | undefined,
  fieldSelector: string | undefined,
): Matcher {
  const label = parseLabelSelector(labelSelector ?? '');
  const field = parseFieldSelector(kind, fieldSelector ?? '');
  if (label.length === 0 && field.length === 0) return undefined;
  return ({ object }) => {
    const labels = object.metadata.labels ?? {};
    if (!label.every((test) => test(labels))) return false;
    if (field.length === 0) return true;
    const fields = fieldsOf(kind, object);
    return field.every((test) => test(fields));
  };
}

/** Requirements are joined by commas; the ones inside `in (…)` belong to the list. */
const REQUIREMENTS = /(?:[^,()]|\([^()]*\))+/g;
const SET = /^(\S+)\s+(in|notin)\s*\(([^()]*)\)$/;
const COMPARISON = /^([^=!<>\s]+)\s*(==|=|!=|>|<)\s*([^=!<>\s]*)$/;
const EXISTENCE = /^(!?)\s*([^=!<>\s]+)$/;

export function parseLabelSelector(text: string): Test<Labels>[] {
  if (text.trim() === '') return [];
  const requirements = text.match(REQUIREMENTS) ?? [];
  // Whatever the pattern had to leave out besides the commas is wrong: stray brackets, empty requirements.
  if (requirements.join(',') !== text) throw badSelector(text);
  return requirements.map((requirement) => parseRequirement(requirement.trim()));
}

function parseRequirement(text: string): Test<Labels> {
  const set = SET.exec(text);
  if (set !== null) return setTest(text, set[1] ?? '', set[2] === 'in', (set[3] ?? '').split(','));
  const comparison = COMPARISON.exec(text);
  if (comparison !== null)
    return comparisonTest(text, comparison[1] ?? '', comparison[2] ?? '', comparison[3] ?? '');
  const existence = EXISTENCE.exec(text);
  if (existence === null) throw badSelector(text);
  const key = checkedKey(text, existence[2] ?? '');
  return (labels) => (labels[key] !== undefined) === (existence[1] === '');
}

function setTest(text: string, keyText: string, isIn: boolean, valueTexts: readonly string[]): Test<Labels> {
  const key = checkedKey(text, keyText);
  const values = new Set(valueTexts.map((value) => checkedValue(text, value.trim())));
  return (labels) => {
    const value = labels[key];
    return value === undefined ? !isIn : values.has(value) === isIn;
  };
}

function comparisonTest(text: string, keyText: string, operator: string, valueText: string): Test<Labels> {
  const key = checkedKey(text, keyText);
  if (operator === '>' || operator === '<') {
    if (!/^-?\d+$/.test(valueText)) throw badSelector(text);
    const bound = Number(valueText);
    return (labels) =>
      /^-?\d+$/.test(labels[key] ?? '') &&
      Number(labels[key]) > bound === (operator === '>') &&
      Number(labels[key]) !== bound;
  }
  const value = checkedValue(text, valueText);
  return (labels) => (labels[key] === value) === (operator !== '!=');
}

function checkedKey(text: string, key: string): string {
  if (qualifiedNameProblem(key) !== undefined) throw badSelector(text);
  return key;
}

function checkedValue(text: string, value: string): string {
  if (labelValueProblem(value) !== undefined) throw badSelector(text);
  return value;
}

function badSelector(text: string): Error {
  return badRequest(`unable to parse requirement: ${JSON.stringify(text)} is not a label requirement`);
}

/** `a.b=x,c!=y`; a backslash takes the meaning from a comma, an equals sign or a backslash in a value. */
function parseFieldSelector(kind: Kind, text: string): Test<Readonly<Record<string, string>>>[] {
  if (text.trim() === '') return [];
  const known = fieldsOf(kind, { apiVersion: '', kind: '', metadata: {} });
  return text.split(/(?<!\\),/).map((term) => {
    const match = /^([^=!\\]+)(==|=|!=)(.*)$/s.exec(term);
    if (match === null) throw badRequest(`invalid field selector: ${JSON.stringify(term)}`);
    const [, field = '', operator = '', escaped = ''] = match;
    if (known[field] === undefined) throw badRequest(`field label not supported: ${field}`);
    const value = escaped.replaceAll(/\\([,=\\])/g, '$1');
    return (fields) => (fields[field] === value) === (operator !== '!=');
  });
}

function fieldsOf(kind: Kind, object: ApiObject): Readonly<Record<string, string>> {
  const { name = '', namespace = '' } = object.metadata;
  const common = { 'metadata.name': name, ...(kind.namespaced ? { 'metadata.namespace': namespace } : {}) };
  return { ...common, ...kind.fields?.(object) };
}
