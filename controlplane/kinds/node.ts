import { isDeepStrictEqual } from 'node:util';
import { familyOf, parseCidr } from '../../core/address.ts';
import type { StatusCause } from '../../kube/errors.ts';
import { NODES, type V1Node } from '../../kube/types.ts';
import { forbidden, invalid, notSupported, required, tooMany } from '../registry/field-errors.ts';
import type { Kind } from '../registry/kind.ts';
import { dnsSubdomainProblem } from '../registry/names.ts';
import { conditionsShape } from '../registry/shape.ts';

const TAINT_EFFECTS = ['NoSchedule', 'PreferNoSchedule', 'NoExecute'];

export const nodeKind: Kind<V1Node> = {
  ...NODES,
  kind: 'Node',
  singular: 'node',
  shortNames: ['no'],
  subresources: ['status'],
  keepsStatusOnCreate: true,
  shape: {
    spec: {
      podCIDR: 'string',
      podCIDRs: ['string'],
      providerID: 'string',
      unschedulable: 'boolean',
      taints: [{ key: 'string', value: 'string', effect: 'string' }],
    },
    status: {
      capacity: { '*': 'intOrString' },
      allocatable: { '*': 'intOrString' },
      addresses: [{ type: 'string', address: 'string' }],
      conditions: conditionsShape,
    },
  },
  mergeKeys: { 'spec.podCIDRs': '', 'status.addresses': 'type', 'status.conditions': 'type' },
  nameProblem: dnsSubdomainProblem,
  setDefaults(node) {
    node.spec ??= {};
    const { spec } = node;
    if ((spec.podCIDR ?? '') !== '' && (spec.podCIDRs ?? []).length === 0)
      spec.podCIDRs = [spec.podCIDR ?? ''];
    const [first] = spec.podCIDRs ?? [];
    if (first !== undefined && (spec.podCIDR ?? '') === '') spec.podCIDR = first;
    if (node.status?.capacity !== undefined) node.status.allocatable ??= { ...node.status.capacity };
  },
  validate: (node, current) => [...podCidrCauses(node, current), ...taintCauses(node)],
  fields: (node) => ({ 'spec.unschedulable': String(node.spec?.unschedulable ?? false) }),
};

function podCidrCauses({ spec = {} }: V1Node, current: V1Node | undefined): StatusCause[] {
  const cidrs = spec.podCIDRs ?? [];
  const causes = cidrs.flatMap((text, index) =>
    parseCidr(text) === undefined
      ? [
          invalid(
            `spec.podCIDRs[${index}]`,
            text,
            'must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
          ),
        ]
      : [],
  );
  const families = cidrs.flatMap((text) => parseCidr(text) ?? []).map(familyOf);
  if (cidrs.length > 2) causes.push(tooMany('spec.podCIDRs', cidrs.length, 2));
  else if (new Set(families).size < families.length) {
    causes.push(invalid('spec.podCIDRs', cidrs, 'may specify no more than one CIDR for each IP family'));
  }
  if (cidrs.length > 0 && spec.podCIDR !== cidrs[0]) {
    causes.push(invalid('spec.podCIDR', spec.podCIDR, 'must be the first of podCIDRs'));
  }
  const before = current?.spec?.podCIDRs ?? [];
  if (before.length > 0 && !isDeepStrictEqual(before, cidrs)) {
    causes.push(forbidden('spec.podCIDRs', 'node updates may not change podCIDR except from "" to valid'));
  }
  return causes;
}

function taintCauses({ spec }: V1Node): StatusCause[] {
  return (spec?.taints ?? []).flatMap(({ key, effect }, index) => {
    const path = `spec.taints[${index}]`;
    return [
      ...((key ?? '') === '' ? [required(`${path}.key`)] : []),
      ...(TAINT_EFFECTS.includes(effect) ? [] : [notSupported(`${path}.effect`, effect, TAINT_EFFECTS)]),
    ];
  });
}
