import { execFileSync } from 'node:child_process';
import test, { type ExecutionContext } from 'ava';
import type { Ip } from '../../core/address.ts';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import {
  type DestinationRow,
  DestinationTable,
  destinationKey,
  IpvsTimeoutTable,
  probeScheduler,
  serverKey,
  type VirtualServerRow,
  VirtualServerTable,
} from '../../kernel/ipvs.ts';
import { IpvsMissingError, IpvsSocket } from '../../kernel/ipvs-socket.ts';
import { openSpace, type Space } from './kernel-space.ts';
import { factOf, missingProgram } from './missing.ts';
import { missingIpvs } from './missing-ipvs.ts';

/*
 * On kernels with IPVS (`npm run test:vm -- test/netns/kernel-ipvs.test.ts`); on others only what is said there.
 */

const IPVSADM = '/usr/sbin/ipvsadm';
const missing = await missingIpvs();
const fact = factOf(missing, test);
const legacyFact = factOf(missing ?? missingProgram(IPVSADM), test);

async function open(t: ExecutionContext): Promise<{ space: Space; ipvs: IpvsSocket }> {
  const space = openSpace(t);
  const ipvs = await IpvsSocket.open({ namespaceFd: space.fd });
  t.teardown(() => ipvs[Symbol.dispose]());
  // Where no address is, the kernel takes every destination for a broadcast address, and refuses it.
  space.ip('link set lo up');
  return { space, ipvs };
}

factOf(missing === undefined ? 'this kernel has IPVS' : undefined, test)(
  'a kernel without IPVS is told of with what to do',
  (t) => {
    t.regex(missing ?? '', /no IPVS \(module ip_vs\).*modprobe ip_vs.*nftables/);
  },
);

/** The kernel's own list, less its heading, and less times in its own unit and masks. */
function listed({ name }: Space): string[] {
  const text = execFileSync('/usr/bin/nsenter', [`--net=/run/netns/${name}`, 'cat', '/proc/net/ip_vs'], {
    encoding: 'utf8',
  });
  return text
    .trimEnd()
    .split('\n')
    .slice(3)
    .map((line) =>
      line
        .trim()
        .split(/\s+/)
        .join(' ')
        .replace(/(?<=persistent) .*/, ''),
    );
}

const ip = (text: string) => text as Ip;
const web: VirtualServerRow = {
  protocol: 'tcp',
  ip: ip('10.96.0.10'),
  port: 80,
  scheduler: 'rr',
  schedulerFlags: 0,
};
const dns: VirtualServerRow = {
  protocol: 'udp',
  ip: ip('fd00:10:96::a'),
  port: 53,
  scheduler: 'wlc',
  schedulerFlags: 0,
  persistenceSeconds: 10_800,
};
const servers = [web, dns, { ...web, protocol: 'sctp', scheduler: 'mh', schedulerFlags: 0x8 } as const];
const destinations: DestinationRow[] = [
  { server: web, ip: ip('10.244.1.5'), port: 8080, weight: 1 },
  { server: web, ip: ip('10.244.2.5'), port: 8081, weight: 0 },
  { server: dns, ip: ip('fd00:10:244:1::5'), port: 5353, weight: 100 },
];

function plan(ipvs: IpvsSocket, rows = servers, its = destinations) {
  return [
    layer(new VirtualServerTable({ ipvs }), new Map(rows.map((row) => [serverKey(row), row]))),
    layer(new DestinationTable({ ipvs }), new Map(its.map((row) => [destinationKey(row), row]))),
  ];
}

fact(
  'virtual servers and their destinations come, change and go, and a second pass writes nothing',
  async (t) => {
    const { space, ipvs } = await open(t);
    t.deepEqual(await reconcile(plan(ipvs)), { writes: 6, failures: [] });
    t.deepEqual(listed(space).toSorted(), [
      '-> 0AF40105:1F90 Masq 1 0 0',
      '-> 0AF40205:1F91 Masq 0 0 0',
      '-> [fd00:0010:0244:0001:0000:0000:0000:0005]:14E9 Masq 100 0 0',
      'SCTP 0A60000A:0050 mh',
      'TCP 0A60000A:0050 rr',
      'UDP [fd00:0010:0096:0000:0000:0000:0000:000a]:0035 wlc persistent',
    ]);
    t.deepEqual(await reconcile(plan(ipvs)), { writes: 0, failures: [] });
    const changed = [{ ...web, scheduler: 'wrr', persistenceSeconds: 5 }, dns];
    const [first, ...others] = destinations as [DestinationRow, ...DestinationRow[]];
    const weighed = [{ ...first, weight: 7 }, ...others.slice(1)];
    t.deepEqual(await reconcile(plan(ipvs, changed, weighed)), { writes: 4, failures: [] });
    t.true(listed(space).includes('TCP 0A60000A:0050 wrr persistent'));
    t.true(listed(space).includes('-> 0AF40105:1F90 Masq 7 0 0'));
    t.deepEqual(await reconcile(plan(ipvs, changed, weighed)), { writes: 0, failures: [] });
    t.deepEqual((await reconcile(plan(ipvs, [], []))).failures, []);
    t.deepEqual(listed(space), []);
  },
);

legacyFact(
  'servers without the mark are nobody’s to read or delete, and one that is wanted is taken over',
  async (t) => {
    const { space, ipvs } = await open(t);
    const at = `${web.ip}:${web.port}`;
    ipvsadmLike(space, ['-A', '-t', at, '-s', 'wlc'], ['-A', '-t', '192.0.2.1:80', '-s', 'rr']);
    t.is((await new VirtualServerTable({ ipvs }).read()).size, 0);
    t.deepEqual(await reconcile(plan(ipvs, [], [])), { writes: 0, failures: [] });
    t.deepEqual((await reconcile(plan(ipvs, [web], []))).failures, []);
    t.deepEqual(await reconcile(plan(ipvs, [web], [])), { writes: 0, failures: [] });
    t.true(listed(space).includes('TCP 0A60000A:0050 rr'));
    await reconcile(plan(ipvs, [], []));
    t.deepEqual(listed(space), ['TCP C0000201:0050 rr']);
  },
);

function ipvsadmLike({ name }: Space, ...commands: readonly string[][]): void {
  for (const args of commands)
    execFileSync('/usr/bin/nsenter', [`--net=/run/netns/${name}`, IPVSADM, ...args], { stdio: 'pipe' });
}

fact('the timeouts that are given are set, and the others stay', async (t) => {
  const { ipvs } = await open(t);
  const all = new IpvsTimeoutTable({ ipvs, keys: ['tcpSeconds', 'tcpFinSeconds', 'udpSeconds'] });
  const before = await all.read();
  t.is(before.size, 3);
  const some = new IpvsTimeoutTable({ ipvs, keys: ['udpSeconds'] });
  const wanted = new Map([['udpSeconds', 7]]);
  t.deepEqual(await reconcile([layer(some, wanted)]), { writes: 1, failures: [] });
  t.deepEqual(await reconcile([layer(some, wanted)]), { writes: 0, failures: [] });
  t.deepEqual(await all.read(), new Map([...before, ...wanted]));
});

fact('a scheduler is there, or its absence is said with what to do', async (t) => {
  const { ipvs, space } = await open(t);
  for (const name of ['rr', 'wrr', 'lc', 'wlc', 'sh', 'dh', 'sed', 'nq', 'mh', 'lblc', 'lblcr'])
    await t.notThrowsAsync(probeScheduler(ipvs, name), name);
  const { message } = await t.throwsAsync(probeScheduler(ipvs, 'best'), { instanceOf: IpvsMissingError });
  t.regex(message, /no IPVS scheduler "best" \(module ip_vs_best\).*nftables/);
  t.deepEqual(listed(space), []);
});

fact('what cannot be is refused row by row, with the kernel’s reason', async (t) => {
  const { ipvs } = await open(t);
  const { failures } = await reconcile(plan(ipvs, [{ ...web, scheduler: 'best' }, dns], destinations));
  const [scheduler, ...others] = failures.map(({ error }) => error.message);
  t.regex(scheduler ?? '', /no IPVS scheduler "best"/);
  t.deepEqual(others, [
    'IPVS_CMD_NEW_DEST tcp 10.96.0.10:80 > 10.244.1.5:8080: ESRCH',
    'IPVS_CMD_NEW_DEST tcp 10.96.0.10:80 > 10.244.2.5:8081: ESRCH',
  ]);
  t.is((await new VirtualServerTable({ ipvs }).read()).size, 1);
});
