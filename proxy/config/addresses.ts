import { familyOf, type Ip } from '../../core/address.ts';
import { parseIpSloppy } from '../sloppy.ts';

/** Where a server listens. */
export interface HostPort {
  readonly host: Ip;
  readonly port: number;
}

/** Reads "0.0.0.0:10256" or "[::]:10256". */
export function parseHostPort(text: string): HostPort | undefined {
  const [, inBrackets, plain, port] = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text) ?? [];
  const host = parseIpSloppy(inBrackets ?? plain ?? '');
  const number = Number(port);
  return host === undefined || number < 1 || number > 65535 ? undefined : { host, port: number };
}

/** As {@link parseHostPort} reads it. */
export function renderHostPort({ host, port }: HostPort): string {
  return familyOf(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}
