import { SERVICES, type V1Service } from '../../kube/types.ts';
import type { Kind } from '../registry/kind.ts';
import { dns1035LabelProblem } from '../registry/names.ts';
import { conditionsShape } from '../registry/shape.ts';
import { prepareServiceUpdate, setServiceDefaults } from '../service/defaults.ts';
import { validateService } from '../service/validate.ts';

export const serviceKind: Kind<V1Service> = {
  ...SERVICES,
  kind: 'Service',
  singular: 'service',
  shortNames: ['svc'],
  categories: ['all'],
  subresources: ['status'],
  shape: {
    spec: {
      type: 'string',
      clusterIP: 'string',
      clusterIPs: ['string'],
      ipFamilies: ['string'],
      ipFamilyPolicy: 'string',
      externalName: 'string',
      externalIPs: ['string'],
      selector: { '*': 'string' },
      sessionAffinity: 'string',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 'integer' } },
      internalTrafficPolicy: 'string',
      externalTrafficPolicy: 'string',
      trafficDistribution: 'string',
      healthCheckNodePort: 'integer',
      publishNotReadyAddresses: 'boolean',
      allocateLoadBalancerNodePorts: 'boolean',
      loadBalancerClass: 'string',
      loadBalancerIP: 'string',
      loadBalancerSourceRanges: ['string'],
      ports: [
        {
          name: 'string',
          protocol: 'string',
          appProtocol: 'string',
          port: 'integer',
          targetPort: 'intOrString',
          nodePort: 'integer',
        },
      ],
    },
    status: {
      loadBalancer: { ingress: [{ ip: 'string', hostname: 'string', ipMode: 'string' }] },
      conditions: conditionsShape,
    },
  },
  mergeKeys: { 'spec.ports': 'port', 'status.conditions': 'type' },
  nameProblem: dns1035LabelProblem,
  setDefaults(service) {
    if (service.spec !== undefined) setServiceDefaults(service.spec);
    service.status ??= {};
    service.status.loadBalancer ??= {};
  },
  prepareUpdate(service, current) {
    if (service.spec !== undefined && current.spec !== undefined)
      prepareServiceUpdate(service.spec, current.spec);
  },
  validate: validateService,
  fields: ({ spec }) => ({ 'spec.clusterIP': spec?.clusterIP ?? '', 'spec.type': spec?.type ?? '' }),
};
