import test from 'ava';
import { ipvsSysctls, ipvsTimeouts } from '../../../proxy/ipvs/kernel-settings.ts';

test('connections are reused as the kernel does it, but for versions that make the client wait', (t) => {
  const modeOf = (release: string) =>
    ipvsSysctls({ strictArp: false }, release).get('net/ipv4/vs/conn_reuse_mode');
  t.deepEqual(['4.0.9', '4.1.0', '4.19.0-amd64', '5.8.12', '5.9.0', '6.1.0-56-cloud-amd64'].map(modeOf), [
    undefined,
    '0',
    '0',
    '0',
    undefined,
    undefined,
  ]);
});

test('strictARP is two settings more', (t) => {
  const keys = (strictArp: boolean) => new Set(ipvsSysctls({ strictArp }, '6.1.0').keys());
  t.deepEqual(
    [...keys(true).difference(keys(false))],
    ['net/ipv4/conf/all/arp_ignore', 'net/ipv4/conf/all/arp_announce'],
  );
});

test('timeouts are seconds, at least one; zero is none', (t) => {
  const timeouts = ipvsTimeouts({ tcpTimeoutMs: 900_000, tcpFinTimeoutMs: 0, udpTimeoutMs: 300 });
  t.deepEqual(
    timeouts,
    new Map([
      ['tcpSeconds', 900],
      ['udpSeconds', 1],
    ]),
  );
});
