import type { StatusCause } from '../../kube/errors.ts';
import { invalid } from '../registry/field-errors.ts';

export const PROTOCOLS: readonly string[] = ['SCTP', 'TCP', 'UDP'];

export function portCauses(field: string, port: number): StatusCause[] {
  return port >= 1 && port <= 65535 ? [] : [invalid(field, port, 'must be between 1 and 65535, inclusive')];
}
