import { HostPortHolders, type HostPortRows } from '../../cni/types/hostport.ts';

/** The holders when one container has the host ports of these rows. */
export function heldBy(containerId: string, rows: HostPortRows): HostPortHolders {
  const holders = new HostPortHolders();
  holders.add({ key: containerId, containerId }, rows);
  return holders;
}
