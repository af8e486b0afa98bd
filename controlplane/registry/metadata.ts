import { isDeepStrictEqual } from 'node:util';
import type { StatusCause } from '../../kube/errors.ts';
import type { V1ObjectMeta } from '../../kube/types.ts';
import { immutable, invalid, required, tooLong } from './field-errors.ts';
import type { Kind } from './kind.ts';
import { labelValueProblem, qualifiedNameProblem } from './names.ts';

const MOST_ANNOTATION_BYTES = 256 << 10;

/** What the server alone sets, once. */
const SERVER_FIELDS = [
  'uid',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
] as const;

/** RFC 3339 in whole seconds, as metav1.Time. */
export function timestamp(timeMs: number): string {
  return `${new Date(timeMs).toISOString().slice(0, 19)}Z`;
}

/** In place: what the server keeps, whatever an update says about it. */
export function keepServerFields(metadata: V1ObjectMeta, current: V1ObjectMeta): void {
  for (const field of [...SERVER_FIELDS, 'generation', 'name', 'namespace', 'generateName'] as const) {
    const value = current[field];
    if (value === undefined) delete metadata[field];
    else Object.assign(metadata, { [field]: value });
  }
  delete metadata.resourceVersion;
  delete metadata.managedFields;
}

export function validateMetadata(
  metadata: V1ObjectMeta,
  current: V1ObjectMeta | undefined,
  kind: Kind,
): StatusCause[] {
  return [
    ...(current === undefined ? nameCauses(metadata, kind) : []),
    ...labelCauses(metadata.labels ?? {}, 'metadata.labels'),
    ...annotationCauses(metadata.annotations ?? {}),
    ...finalizerCauses(metadata, current),
    ...ownerCauses(metadata),
  ];
}

function nameCauses({ name, generateName, namespace }: V1ObjectMeta, kind: Kind): StatusCause[] {
  const causes: StatusCause[] = [];
  if (name === undefined || name === '') {
    causes.push(required('metadata.name', 'name or generateName is required'));
  } else {
    const problem = kind.nameProblem(name);
    // A generated name is as wrong as what it was made of; that is what the client can mend.
    if (problem !== undefined && generateName !== undefined)
      causes.push(invalid('metadata.generateName', generateName, problem));
    if (problem !== undefined) causes.push(invalid('metadata.name', name, problem));
  }
  if (!kind.namespaced && namespace !== undefined && namespace !== '') {
    causes.push({
      field: 'metadata.namespace',
      reason: 'FieldValueForbidden',
      message: 'Forbidden: not allowed on this type',
    });
  }
  return causes;
}

export function labelCauses(labels: Readonly<Record<string, string>>, field: string): StatusCause[] {
  return Object.entries(labels).flatMap(([key, value]) => {
    const keyProblem = qualifiedNameProblem(key);
    const valueProblem = labelValueProblem(value);
    return [
      ...(keyProblem === undefined ? [] : [invalid(field, key, keyProblem)]),
      ...(valueProblem === undefined ? [] : [invalid(field, value, valueProblem)]),
    ];
  });
}

function annotationCauses(annotations: Readonly<Record<string, string>>): StatusCause[] {
  const field = 'metadata.annotations';
  const causes: StatusCause[] = [];
  let bytes = 0;
  for (const [key, value] of Object.entries(annotations)) {
    const problem = qualifiedNameProblem(key.toLowerCase());
    if (problem !== undefined) causes.push(invalid(field, key, problem));
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  if (bytes > MOST_ANNOTATION_BYTES) causes.push(tooLong(field, MOST_ANNOTATION_BYTES));
  return causes;
}

function finalizerCauses(
  { finalizers = [] }: V1ObjectMeta,
  current: V1ObjectMeta | undefined,
): StatusCause[] {
  const field = 'metadata.finalizers';
  const causes = finalizers.flatMap((name, index) => {
    const problem = qualifiedNameProblem(name);
    return problem === undefined ? [] : [invalid(`${field}[${index}]`, name, problem)];
  });
  const isTerminating = current?.deletionTimestamp !== undefined;
  const added = finalizers.filter((name) => !current?.finalizers?.includes(name));
  if (isTerminating && added.length > 0) {
    const message = 'Forbidden: no new finalizers can be added if the object is being deleted';
    causes.push({
      field,
      reason: 'FieldValueForbidden',
      message: `${message}, found new finalizers ${JSON.stringify(added)}`,
    });
  }
  return causes;
}

function ownerCauses({ ownerReferences = [] }: V1ObjectMeta): StatusCause[] {
  const fields = ['apiVersion', 'kind', 'name', 'uid'] as const;
  return ownerReferences.flatMap((owner, index) =>
    fields
      .filter((field) => owner[field] === undefined || owner[field] === '')
      .map((field) => required(`metadata.ownerReferences[${index}].${field}`)),
  );
}

/** One cause per named field that differs. */
export function immutableCauses(
  path: string,
  value: object,
  current: object,
  fields: readonly string[],
): StatusCause[] {
  const now = value as Readonly<Record<string, unknown>>;
  const before = current as Readonly<Record<string, unknown>>;
  return fields
    .filter((field) => !isDeepStrictEqual(now[field], before[field]))
    .map((field) => immutable(path === '' ? field : `${path}.${field}`, now[field]));
}
