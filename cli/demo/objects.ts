import type { V1Pod, V1Service } from '../../kube/types.ts';
import type { AttachedPod } from '../cluster/cluster.ts';

export const HTTP_PORT = 8080;

/** A pod that its node runs. */
export function podObject({ name, node }: AttachedPod, app: string): V1Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default', labels: { app } },
    spec: {
      nodeName: node.name,
      containers: [{ name: 'web', image: 'demo', ports: [{ name: 'http', containerPort: HTTP_PORT }] }],
    },
  };
}

/** What a node's agent reports of a pod that is up and ready: a patch of its status. */
export function readyStatus({ ips }: AttachedPod): Pick<V1Pod, 'status'> {
  return {
    status: {
      phase: 'Running',
      podIP: ips[0],
      podIPs: ips.map((ip) => ({ ip })),
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  };
}

export function serviceObject(name: string, selector: Record<string, string>, nodePort: number): V1Service {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'default' },
    spec: {
      type: 'NodePort',
      ipFamilyPolicy: 'RequireDualStack',
      ipFamilies: ['IPv4', 'IPv6'],
      selector,
      ports: [
        { name: 'http', port: 80, targetPort: 'http', nodePort },
        { name: 'dns', port: 80, targetPort: HTTP_PORT, protocol: 'UDP', nodePort },
      ],
    },
  };
}
