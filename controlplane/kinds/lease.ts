import { LEASES, type V1Lease } from '../../kube/types.ts';
import { invalid } from '../registry/field-errors.ts';
import type { Kind } from '../registry/kind.ts';
import { dnsSubdomainProblem } from '../registry/names.ts';

export const leaseKind: Kind<V1Lease> = {
  ...LEASES,
  kind: 'Lease',
  singular: 'lease',
  shortNames: [],
  subresources: [],
  shape: {
    spec: {
      holderIdentity: 'string',
      leaseDurationSeconds: 'integer',
      leaseTransitions: 'integer',
      acquireTime: 'string',
      renewTime: 'string',
    },
  },
  nameProblem: dnsSubdomainProblem,
  validate({ spec }) {
    const seconds = spec?.leaseDurationSeconds;
    const isWrong = seconds !== undefined && seconds <= 0;
    return isWrong ? [invalid('spec.leaseDurationSeconds', seconds, 'must be greater than 0')] : [];
  },
};
