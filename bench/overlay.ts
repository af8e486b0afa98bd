import { Lab } from '../cli/cluster/lab.ts';
import type { Frame } from './frame.ts';
import { measureDrift } from './overlay/drift.ts';
import { labName } from './overlay/pair.ts';
import { measureScale } from './overlay/scale.ts';
import { measureThroughput } from './overlay/throughput.ts';

export const description =
  'the node agent: thousands of leases, drift, and throughput of its ways between nodes';

const scales = [
  ['etcd', 'vxlan'],
  ['kubernetes', 'vxlan'],
  ['etcd', 'host-gw'],
] as const;

export async function run(frame: Frame): Promise<void> {
  for (const [kind, backend] of scales) {
    await using lab = await Lab.create({ name: labName(), nodes: 2 });
    await measureScale(frame, lab, kind, backend);
  }
  await measureDrift(frame);
  await measureThroughput(frame);
}
