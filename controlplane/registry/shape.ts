/**
 * The types of the fields that our code reads. Fields that it does not name are stored as they come.
 * `[shape]` is a list; an object with only the field "*" is a map.
 */
export type Shape =
  | 'string'
  | 'integer'
  | 'boolean'
  | 'intOrString'
  | 'any'
  | readonly [Shape]
  | { readonly [field: string]: Shape };

const scalars: Readonly<Record<string, { is: (value: unknown) => boolean; called: string }>> = {
  any: { is: () => true, called: 'anything' },
  string: { is: (value) => typeof value === 'string', called: 'a string' },
  integer: { is: (value) => Number.isSafeInteger(value), called: 'an integer' },
  boolean: { is: (value) => typeof value === 'boolean', called: 'true or false' },
  intOrString: {
    is: (value) => typeof value === 'string' || Number.isSafeInteger(value),
    called: 'an integer or a string',
  },
};

/** All places where the value is not of the shape, such as `spec.ports[0].port: must be an integer`. */
export function shapeProblems(value: unknown, shape: Shape, path = ''): string[] {
  if (typeof shape === 'string') {
    const scalar = scalars[shape];
    return scalar?.is(value) ? [] : [`${path}: must be ${scalar?.called}`];
  }
  if (isListShape(shape)) {
    if (!Array.isArray(value)) return [`${path}: must be a list`];
    return value.flatMap((item, index) => shapeProblems(item, shape[0], `${path}[${index}]`));
  }
  if (!isPlainObject(value)) return [`${path}: must be an object`];
  return Object.entries(value).flatMap(([field, part]) => {
    const partShape = Object.hasOwn(shape, field) ? shape[field] : shape['*'];
    const at = path === '' ? field : `${path}.${field}`;
    return partShape === undefined || part === undefined ? [] : shapeProblems(part, partShape, at);
  });
}

export function isPlainObject(value: unknown): value is { [field: string]: unknown } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isListShape(shape: Shape): shape is readonly [Shape] {
  return Array.isArray(shape);
}

/** A field that is null counts as left out, as in every API server; items of lists stay. */
export function withoutNulls<T>(value: T): T {
  if (Array.isArray(value)) return value.map(withoutNulls) as T;
  if (!isPlainObject(value)) return value;
  const kept = Object.entries(value).filter(([, part]) => part !== null);
  return Object.fromEntries(kept.map(([field, part]) => [field, withoutNulls(part)])) as T;
}

const conditionShape: Shape = { type: 'string', status: 'string', reason: 'string', message: 'string' };
export const conditionsShape: Shape = [conditionShape];

export const metadataShape: Shape = {
  name: 'string',
  generateName: 'string',
  namespace: 'string',
  uid: 'string',
  resourceVersion: 'string',
  generation: 'integer',
  creationTimestamp: 'string',
  deletionTimestamp: 'string',
  deletionGracePeriodSeconds: 'integer',
  labels: { '*': 'string' },
  annotations: { '*': 'string' },
  finalizers: ['string'],
  ownerReferences: [
    {
      apiVersion: 'string',
      kind: 'string',
      name: 'string',
      uid: 'string',
      controller: 'boolean',
      blockOwnerDeletion: 'boolean',
    },
  ],
};
