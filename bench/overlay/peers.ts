import type { Cidr, Ip, Mac } from '../../core/address.ts';
import type { LeaseAttributes } from '../../daemon/lease.ts';
import { leaseAnnotations } from '../../daemon/node-record.ts';
import type { V1Node } from '../../kube/types.ts';

/** Room for 65,536 nodes. */
export const network = '10.0.0.0/8';
const annotations = 'flannel.alpha.coreos.com';

export type Backend = 'vxlan' | 'host-gw';

/** A node that is nothing but an entry of the store. */
export interface Peer {
  readonly name: string;
  readonly subnet: Cidr;
  readonly attributes: LeaseAttributes;
}

/** The peer of a number below 16,384. With host-gw its address is in the lab's own network. */
export function peerOf(n: number, backend: Backend): Peer {
  const [high, low] = [n >> 8, n & 255];
  const publicIp = backend === 'vxlan' ? `172.31.${high}.${low}` : `172.30.0.${20 + (n % 200)}`;
  return {
    name: `peer-${n}`,
    subnet: `10.${high}.${low}.0/24` as Cidr,
    attributes: {
      publicIps: { 4: publicIp as Ip },
      backendType: backend,
      backendData: { 4: backend === 'vxlan' ? { VNI: 1, VtepMAC: peerMac(n) } : {} },
    },
  };
}

function peerMac(n: number): Mac {
  const digits = n.toString(16).padStart(4, '0');
  return `02:fa:00:00:${digits.slice(0, 2)}:${digits.slice(2)}` as Mac;
}

/** As a kubelet would have it: most of a Node is none of the network's business, and comes all the same. */
export function nodeOf({ name, subnet, attributes }: Peer): V1Node {
  const address = attributes.publicIps[4] ?? '';
  const amounts = { cpu: '16', memory: '65841204Ki', pods: '110', 'ephemeral-storage': '101430960Ki' };
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: {
      name,
      labels: { 'kubernetes.io/hostname': name, 'kubernetes.io/os': 'linux', 'kubernetes.io/arch': 'amd64' },
      annotations: Object.fromEntries(leaseAnnotations(attributes, annotations)),
    },
    spec: { podCIDR: subnet, podCIDRs: [subnet] },
    status: {
      addresses: [
        { type: 'InternalIP', address },
        { type: 'Hostname', address: name },
      ],
      capacity: amounts,
      allocatable: amounts,
      conditions: ['MemoryPressure', 'DiskPressure', 'PIDPressure', 'Ready'].map((type) => ({
        type,
        status: type === 'Ready' ? 'True' : 'False',
        reason: `Kubelet${type}`,
        message: `kubelet says of ${type} what it says on every node`,
      })),
      images: Array.from({ length: imagesOfNode }, (_, n) => ({
        names: [`registry.example/some/image-${n}@sha256:${'0123456789abcdef'.repeat(4)}`],
        sizeBytes: 100_000_000 + n,
      })),
    },
  };
}

/** A kubelet reports up to fifty. */
const imagesOfNode = 20;
