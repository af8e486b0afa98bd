import { IpvsMissingError, IpvsSocket } from '../../kernel/ipvs-socket.ts';

/** Why mode ipvs can be neither tested nor measured here. */
export async function missingIpvs(): Promise<string | undefined> {
  try {
    (await IpvsSocket.open())[Symbol.dispose]();
    return undefined;
  } catch (error) {
    if (error instanceof IpvsMissingError) return error.message;
    throw error;
  }
}
