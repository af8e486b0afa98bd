import type { StatusCause } from '../../kube/errors.ts';

/*
 * The causes of a 422, in the words of Kubernetes (apimachinery, pkg/util/validation/field/errors.go).
 * `field` is a path such as `spec.ports[0].port`.
 */

const cause = (field: string, reason: string, message: string): StatusCause => ({ field, reason, message });

export function invalid(field: string, value: unknown, detail: string): StatusCause {
  return cause(field, 'FieldValueInvalid', `Invalid value: ${show(value)}: ${detail}`);
}

export function required(field: string, detail = ''): StatusCause {
  return cause(field, 'FieldValueRequired', `Required value${detail === '' ? '' : `: ${detail}`}`);
}

export function notSupported(field: string, value: unknown, supported: readonly string[]): StatusCause {
  const names = supported.map((name) => `"${name}"`).join(', ');
  return cause(
    field,
    'FieldValueNotSupported',
    `Unsupported value: ${show(value)}: supported values: ${names}`,
  );
}

export function duplicate(field: string, value: unknown): StatusCause {
  return cause(field, 'FieldValueDuplicate', `Duplicate value: ${show(value)}`);
}

export function forbidden(field: string, detail: string): StatusCause {
  return cause(field, 'FieldValueForbidden', `Forbidden: ${detail}`);
}

export function tooLong(field: string, mostBytes: number): StatusCause {
  return cause(field, 'FieldValueTooLong', `Too long: may not be more than ${mostBytes} bytes`);
}

export function tooMany(field: string, count: number, most: number): StatusCause {
  return cause(field, 'FieldValueTooMany', `Too many: ${count}: must have at most ${most} items`);
}

export function immutable(field: string, value: unknown): StatusCause {
  return invalid(field, value, 'field is immutable');
}

function show(value: unknown): string {
  return value === undefined ? 'null' : JSON.stringify(value);
}
