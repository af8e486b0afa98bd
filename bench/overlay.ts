import { randomBytes } from 'node:crypto';
import { Lab } from '../cli/cluster/lab.ts';
import type { Frame } from './frame.ts';
import { measureScale } from './overlay/scale.ts';

export const description =
  'the node agent: thousands of leases, drift, and throughput of its ways between nodes';

export async function run(frame: Frame): Promise<void> {
  for (const [kind, backend] of [
    ['etcd', 'vxlan'],
    ['kubernetes', 'vxlan'],
    ['etcd', 'host-gw'],
  ] as const) {
    await using lab = await Lab.create({ name: `b${randomBytes(3).toString('hex')}`, nodes: 2 });
    await measureScale(frame, lab, kind, backend);
  }
}
