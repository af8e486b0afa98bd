import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { DeleteOptions } from '../../kube/types.ts';
import { badRequest, conflict, invalidObject } from './failures.ts';
import type { Kind } from './kind.ts';
import { keepServerFields, timestamp, validateMetadata } from './metadata.ts';
import { generateName } from './names.ts';
import { isPlainObject, metadataShape, shapeProblems, withoutNulls } from './shape.ts';
import type { ApiObject } from './stored.ts';

/* What becomes of the object in a request before it is stored. Nothing here reads or writes anything. */

/** Where a request points to, and when it came. */
export interface Target {
  readonly kind: Kind;
  /** undefined for what lives in no namespace. */
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource?: string | undefined;
  readonly nowMs: number;
}

/** `v1` or `GROUP/VERSION`. */
export function apiVersionOf({ group, version }: { group: string; version: string }): string {
  return group === '' ? version : `${group}/${version}`;
}

/** The body of a request as an object of the kind, every field that we know of the right type. Throws ApiError 400. */
export function readObject(body: unknown, { kind, namespace, name }: Target): ApiObject {
  const as = `cannot be handled as a ${kind.kind}`;
  if (!isPlainObject(body)) throw badRequest(`the request body ${as}: it is not an object`);
  const object = withoutNulls(body);
  const apiVersion = apiVersionOf(kind);
  const given = { apiVersion: object.apiVersion ?? apiVersion, kind: object.kind ?? kind.kind };
  if (given.apiVersion !== apiVersion || given.kind !== kind.kind) {
    throw badRequest(`${String(given.kind)} in version "${String(given.apiVersion)}" ${as}`);
  }
  const problems = shapeProblems(object, { metadata: metadataShape, ...kind.shape });
  if (problems.length > 0)
    throw badRequest(`${kind.kind} in version "${apiVersion}" ${as}: ${problems.join('; ')}`);
  const metadata = { ...(object.metadata ?? {}) } as ApiObject['metadata'];
  checkPlace(metadata, namespace, name);
  return { ...object, apiVersion, kind: kind.kind, metadata };
}

/** In place: what the URL says about name and namespace is filled in; the object may not say otherwise. */
function checkPlace(
  metadata: ApiObject['metadata'],
  namespace: string | undefined,
  name: string | undefined,
): void {
  if (namespace !== undefined) {
    if ((metadata.namespace ?? '') === '') metadata.namespace = namespace;
    if (metadata.namespace !== namespace) {
      throw badRequest(
        `the namespace of the provided object does not match the namespace sent on the request (${metadata.namespace} and ${namespace})`,
      );
    }
  }
  if (name === undefined) return;
  if ((metadata.name ?? '') === '') metadata.name = name;
  if (metadata.name !== name) {
    throw badRequest(
      `the name of the object (${metadata.name}) does not match the name on the URL (${name})`,
    );
  }
}

/** A new object, complete but for what an admission gives it. Throws ApiError 400, 422. */
export function prepareCreate(body: unknown, target: Target): ApiObject {
  const { kind, nowMs } = target;
  const object = readObject(body, target);
  const { metadata } = object;
  if (metadata.resourceVersion !== undefined && metadata.resourceVersion !== '') {
    throw badRequest('resourceVersion should not be set on objects to be created');
  }
  if (kind.subresources.includes('status') && kind.keepsStatusOnCreate !== true) delete object.status;
  keepServerFields(metadata, {
    name: metadata.name,
    namespace: metadata.namespace,
    generateName: metadata.generateName,
  });
  if ((metadata.name ?? '') === '' && (metadata.generateName ?? '') !== '') {
    metadata.name = generateName(metadata.generateName ?? '');
  }
  metadata.uid = randomUUID();
  metadata.creationTimestamp = timestamp(nowMs);
  if (kind.hasGeneration === true) metadata.generation = 1;
  kind.setDefaults?.(object);
  check(kind, object, undefined);
  return object;
}

/** The object as it will stand after an update, complete but for what an admission gives it. */
export function prepareUpdate(body: unknown, current: ApiObject, target: Target): ApiObject {
  const { kind, subresource } = target;
  const given = readObject(body, target);
  checkIdentity(kind, given, current);
  const object = joinedWith(current, given, kind, subresource);
  keepServerFields(object.metadata, current.metadata);
  kind.setDefaults?.(object);
  if (subresource === undefined) kind.prepareUpdate?.(object, current);
  check(kind, object, current);
  return object;
}

/** The object with its change counted, when it is one of what is wanted and not of what is. */
export function withGeneration(kind: Kind, object: ApiObject, current: ApiObject): ApiObject {
  if (kind.hasGeneration !== true) return object;
  const wanted = ({ metadata: _, status: __, ...rest }: ApiObject) => JSON.parse(JSON.stringify(rest));
  if (isDeepStrictEqual(wanted(object), wanted(current))) return object;
  const generation = (current.metadata.generation ?? 0) + 1;
  return { ...object, metadata: { ...object.metadata, generation } };
}

function checkIdentity(kind: Kind, given: ApiObject, current: ApiObject): void {
  const { name = '', uid = '', resourceVersion = '' } = current.metadata;
  const asked = given.metadata;
  if ((asked.uid ?? '') !== '' && asked.uid !== uid) {
    throw conflict(
      kind,
      name,
      `Precondition failed: UID in precondition: ${asked.uid}, UID in object meta: ${uid}`,
    );
  }
  const isOther = asked.resourceVersion !== resourceVersion;
  if (isOther && (asked.resourceVersion ?? '') !== '' && asked.resourceVersion !== '0')
    throw conflict(kind, name);
}

/** The status path writes status and metadata (nodes report labels and annotations there), the main one the rest. */
function joinedWith(
  current: ApiObject,
  given: ApiObject,
  kind: Kind,
  subresource: string | undefined,
): ApiObject {
  if (subresource === 'status')
    return withField({ ...current, metadata: given.metadata }, 'status', given.status);
  if (subresource === 'finalize') return withField({ ...current }, 'spec', given.spec);
  return kind.subresources.includes('status') ? withField(given, 'status', current.status) : given;
}

function withField(object: ApiObject, field: string, value: unknown): ApiObject {
  const { [field]: _, ...rest } = object;
  return (value === undefined ? rest : { ...rest, [field]: structuredClone(value) }) as ApiObject;
}

function check(kind: Kind, object: ApiObject, current: ApiObject | undefined): void {
  const causes = [
    ...validateMetadata(object.metadata, current?.metadata, kind),
    ...(kind.validate?.(object, current) ?? []),
  ];
  if (causes.length > 0) throw invalidObject(kind, object.metadata.name ?? '', causes);
}

/** undefined: the object goes at once. Otherwise what it is from now on, until its keepers let go of it. */
export function prepareDelete(
  current: ApiObject,
  { kind, nowMs }: Target,
  options: DeleteOptions,
): ApiObject | undefined {
  checkPreconditions(kind, current, options);
  const usual = current.metadata.deletionGracePeriodSeconds ?? kind.graceSeconds?.(current) ?? 0;
  const asked = kind.graceSeconds === undefined ? 0 : Math.max(options.gracePeriodSeconds ?? usual, 0);
  const isTerminating = current.metadata.deletionTimestamp !== undefined;
  // Whoever deletes again may only make the rest shorter.
  const grace = isTerminating ? Math.min(asked, usual) : asked;
  if (grace === 0 && !isKept(kind, current)) return undefined;
  if (isTerminating && grace === (current.metadata.deletionGracePeriodSeconds ?? 0)) return current;
  const object = structuredClone(current);
  object.metadata.deletionTimestamp = timestamp(nowMs + grace * 1000);
  object.metadata.deletionGracePeriodSeconds = grace;
  if (kind.hasGeneration === true) object.metadata.generation = (current.metadata.generation ?? 0) + 1;
  kind.markTerminating?.(object);
  return object;
}

/** Whether an object whose deletion had begun goes now that its last keeper has let go. */
export function isDeletionComplete(kind: Kind, object: ApiObject): boolean {
  const { deletionTimestamp, deletionGracePeriodSeconds = 0 } = object.metadata;
  return deletionTimestamp !== undefined && deletionGracePeriodSeconds === 0 && !isKept(kind, object);
}

function isKept(kind: Kind, object: ApiObject): boolean {
  return (object.metadata.finalizers ?? []).length > 0 || (kind.finalizers?.(object) ?? []).length > 0;
}

function checkPreconditions(kind: Kind, current: ApiObject, { preconditions }: DeleteOptions): void {
  const { name = '', uid, resourceVersion } = current.metadata;
  const differs = (what: string, asked: string | undefined, actual: string | undefined) => {
    if (asked === undefined || asked === actual) return;
    throw conflict(
      kind,
      name,
      `Precondition failed: ${what} in precondition: ${asked}, ${what} in object meta: ${actual}`,
    );
  };
  differs('UID', preconditions?.uid, uid);
  differs('ResourceVersion', preconditions?.resourceVersion, resourceVersion);
}
