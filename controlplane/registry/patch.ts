import { badRequest } from './failures.ts';
import { isPlainObject } from './shape.ts';
import type { JsonObject } from './stored.ts';

/** RFC 7386: null removes, objects are merged, everything else replaces. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isPlainObject(patch)) return patch;
  const merged: JsonObject = isPlainObject(target) ? { ...target } : {};
  for (const [field, value] of Object.entries(patch)) {
    if (value === null) delete merged[field];
    else merged[field] = mergePatch(merged[field], value);
  }
  return merged;
}

/** By field path without indexes: the key that items of a list are told apart by. */
export type MergeKeys = Readonly<Record<string, string>>;

/** `setElementOrder` says only how a list is to be sorted, which no kind here depends on. */
const IGNORED = '$setElementOrder/';
const FROM_LIST = '$deleteFromPrimitiveList/';

/**
 * Kubernetes' strategic merge: as {@link mergePatch}, but lists with a key are joined item by item, and
 * `$patch: replace | delete`, `$retainKeys` and `$deleteFromPrimitiveList/…` direct the merge
 * (community, contributors/devel/sig-api-machinery/strategic-merge-patch.md).
 */
export function strategicMergePatch(
  target: unknown,
  patch: JsonObject,
  keys: MergeKeys,
  path = '',
): JsonObject {
  const { $patch: directive, $retainKeys: retained, ...fields } = patch;
  if (directive === 'replace') return fields;
  if (directive !== undefined && directive !== 'merge')
    throw badRequest(`$patch: ${JSON.stringify(directive)} at "${path}"`);
  const merged: JsonObject = isPlainObject(target) ? { ...target } : {};
  if (Array.isArray(retained)) {
    for (const field of Object.keys(merged)) if (!retained.includes(field)) delete merged[field];
  }
  for (const [field, value] of Object.entries(fields)) mergeField(merged, field, value, keys, path);
  return merged;
}

function mergeField(merged: JsonObject, field: string, value: unknown, keys: MergeKeys, path: string): void {
  if (field.startsWith(IGNORED)) return;
  if (field.startsWith(FROM_LIST)) {
    const name = field.slice(FROM_LIST.length);
    merged[name] = without(merged[name], value);
    return;
  }
  const at = path === '' ? field : `${path}.${field}`;
  const key = keys[at];
  if (value === null) delete merged[field];
  else if (isPlainObject(value)) merged[field] = mergeOrDelete(merged[field], value, keys, at);
  else if (Array.isArray(value) && key !== undefined)
    merged[field] = mergeList(merged[field], value, keys, at, key);
  else merged[field] = value;
  if (merged[field] === undefined) delete merged[field];
}

function mergeOrDelete(
  target: unknown,
  patch: JsonObject,
  keys: MergeKeys,
  path: string,
): JsonObject | undefined {
  return patch.$patch === 'delete' ? undefined : strategicMergePatch(target, patch, keys, path);
}

/** The key "" stands for a list of plain values, which are joined as a set. */
function mergeList(
  target: unknown,
  patch: readonly unknown[],
  keys: MergeKeys,
  path: string,
  key: string,
): unknown[] {
  const merged = Array.isArray(target) ? [...target] : [];
  if (
    patch.some((item) => isPlainObject(item) && item.$patch === 'replace' && Object.keys(item).length === 1)
  ) {
    return patch.filter((item) => !isPlainObject(item) || item.$patch === undefined);
  }
  for (const item of patch) {
    if (key === '') {
      if (!merged.includes(item)) merged.push(item);
    } else mergeItem(merged, item, keys, path, key);
  }
  return merged;
}

function mergeItem(merged: unknown[], item: unknown, keys: MergeKeys, path: string, key: string): void {
  if (!isPlainObject(item) || item[key] === undefined) {
    throw badRequest(`map: ${JSON.stringify(item)} does not contain declared merge key: ${key} (in ${path})`);
  }
  const index = merged.findIndex((other) => isPlainObject(other) && other[key] === item[key]);
  const next = mergeOrDelete(merged[index], item, keys, path);
  if (next === undefined) {
    if (index >= 0) merged.splice(index, 1);
  } else if (index < 0) merged.push(next);
  else merged[index] = next;
}

function without(list: unknown, removed: unknown): unknown {
  if (!Array.isArray(list) || !Array.isArray(removed)) return list;
  return list.filter((item) => !removed.includes(item));
}
