import { release } from 'node:os';
import type { IpvsSettings } from '../config/config.ts';

/**
 * The kernel's settings that the mode needs, as kube-proxy makes them (pkg/proxy/ipvs/proxier.go): IPVS connections
 * are tracked, so that they can be masqueraded; connections to a destination that is gone end, and clients do not
 * stick to one that takes no connections.
 */
export function ipvsSysctls(
  { strictArp }: Pick<IpvsSettings, 'strictArp'>,
  kernelRelease = release(),
): Map<string, string> {
  return new Map([
    ['net/ipv4/ip_forward', '1'],
    ['net/ipv4/vs/conntrack', '1'],
    ['net/ipv4/vs/expire_nodest_conn', '1'],
    ['net/ipv4/vs/expire_quiescent_template', '1'],
    // From 4.1 to 5.8 a client that uses a port again waits for a second otherwise (fixed by f0a5e4d7a594).
    ...(reusesSlowly(kernelRelease) ? ([['net/ipv4/vs/conn_reuse_mode', '0']] as const) : []),
    ...(strictArp
      ? ([
          ['net/ipv4/conf/all/arp_ignore', '1'],
          ['net/ipv4/conf/all/arp_announce', '2'],
        ] as const)
      : []),
  ]);
}

function reusesSlowly(kernelRelease: string): boolean {
  const [major = 0, minor = 0] = kernelRelease.split('.').map((part) => Number.parseInt(part, 10));
  return (major === 4 && minor >= 1) || (major === 5 && minor < 9);
}

/** By the names of `IpvsTimeoutTable`; those that are zero stay as they are. */
export function ipvsTimeouts({
  tcpTimeoutMs,
  tcpFinTimeoutMs,
  udpTimeoutMs,
}: Pick<IpvsSettings, 'tcpTimeoutMs' | 'tcpFinTimeoutMs' | 'udpTimeoutMs'>): Map<string, number> {
  const all = { tcpSeconds: tcpTimeoutMs, tcpFinSeconds: tcpFinTimeoutMs, udpSeconds: udpTimeoutMs };
  return new Map(
    Object.entries(all).flatMap(([name, ms]) => (ms > 0 ? [[name, Math.max(1, Math.round(ms / 1000))]] : [])),
  );
}
