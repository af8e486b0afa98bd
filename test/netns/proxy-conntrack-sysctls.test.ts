import test from 'ava';
import { SysctlTable } from '../../kernel/sysctl.ts';
import { conntrackSysctls, writeConntrackSysctls, writeOomScore } from '../../proxy/conntrack-sysctls.ts';
import { openNftSpace } from './nftables-space.ts';

/** The size of the table is the whole machine's: it is left alone here. */
const settings = {
  maxPerCore: 0,
  min: 0,
  tcpEstablishedTimeoutMs: 7200_000,
  tcpCloseWaitTimeoutMs: 3600_000,
  tcpBeLiberal: true,
  udpTimeoutMs: 0,
  udpStreamTimeoutMs: 150_000,
};

test('timeouts are set in the namespace, once, and what is zero stays', async (t) => {
  const { fd, load } = openNftSpace(t);
  // A rule that looks at connections makes the kernel follow them, and shows the parameters.
  load('table inet track { chain c { type filter hook input priority 0; ct state new accept; }; }');
  const keys = Object.values(conntrackSysctls);
  const table = new SysctlTable({ keys, namespaceFd: fd });
  const before = await table.read();
  const { written, warnings } = await writeConntrackSysctls(settings, { cpus: 2, namespaceFd: fd });
  t.deepEqual(warnings, []);
  t.is(written.size, 4);
  const after = await table.read();
  t.is(after.get(conntrackSysctls.tcpEstablished), '7200');
  t.is(after.get(conntrackSysctls.tcpCloseWait), '3600');
  t.is(after.get(conntrackSysctls.tcpBeLiberal), '1');
  t.is(after.get(conntrackSysctls.udpStream), '150');
  t.is(after.get(conntrackSysctls.udp), before.get(conntrackSysctls.udp));
  t.is((await writeConntrackSysctls(settings, { cpus: 2, namespaceFd: fd })).written.size, 0);
});

test('the out-of-memory score may be raised, and nonsense is refused', (t) => {
  t.notThrows(() => writeOomScore(1000));
  t.throws(() => writeOomScore(1001));
});
