import { probeScheduler } from '../../kernel/ipvs.ts';
import { IpvsSocket } from '../../kernel/ipvs-socket.ts';
import type { IpvsSettings } from '../config/config.ts';

/** Throws IpvsMissingError, with what there is to do, where the kernel has no IPVS or not the scheduler that is asked for. */
export async function checkIpvs({ scheduler }: Pick<IpvsSettings, 'scheduler'>): Promise<void> {
  using ipvs = await IpvsSocket.open();
  await probeScheduler(ipvs, scheduler);
}
