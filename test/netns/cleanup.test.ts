import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import test from 'ava';
import { Machine } from './cleanup-machine.ts';

/** Things of somebody else, each beside something of ours. */
function addForeign(machine: Machine): void {
  machine.space.ip(`
    link add br-other type bridge
    link set br-other addrgenmode none
    link set br-other up
    link add vx-other type vxlan id 77 dstport 4789 dev up0
    link set vx-other alias "not of fairlead"
    route add 198.51.100.0/24 dev up0 proto 89
    rule add priority 700 from 198.51.100.0/24 table 100`);
  const ruleset = `
    add table inet other { comment "fairlead layout of others"; }
    add chain inet other c { type filter hook forward priority 0; }
    add rule inet other c counter accept
    add table inet fairlead-like
    add table inet fairleads { comment "fairlead layout 0"; }
    add table ip fairlead { comment "another project"; }
`;
  machine.feed(ruleset, '/usr/sbin/nft', '-f', '-');
  machine.run('iptables', '-t', 'filter', '-A', 'FORWARD', '-s', '198.51.100.1', '-j', 'ACCEPT');
  mkdirSync(machine.path('bin'), { recursive: true });
  mkdirSync(machine.path('net.d'), { recursive: true });
  writeFileSync(machine.path('bin', 'bridge'), 'a plugin of others');
  writeFileSync(machine.path('net.d', '10-other.conflist'), '{"name":"other"}');
}

/** Ours, of the kinds that an agent with one pod does not make. */
function addOurs(machine: Machine): void {
  machine.space.ip(`
    route add 203.0.113.0/24 dev up0 proto 88
    route add 203.0.113.0/24 dev up0 proto 88 metric 9
    route add 203.0.113.0/24 dev up0 proto 88 table 100
    rule add priority 701 from 203.0.113.0/24 table 100 protocol 88
    link add ifb-left type ifb
    link set ifb-left alias "fairlead bandwidth gone"`);
  const limit = 'qdisc add dev up1 root handle fa1: tbf rate 1mbit burst 10k latency 25ms';
  machine.run('/usr/sbin/tc', ...limit.split(' '));
  const rules = `*filter
:FAIRLEAD-FORWARD - [0:0]
:FAIRLEAD-ADMIN - [0:0]
:FAIRLEAD-CLUSTER - [0:0]
-A FAIRLEAD-FORWARD -j FAIRLEAD-ADMIN
-A FAIRLEAD-CLUSTER -s 10.99.0.0/24 -j ACCEPT
-A FORWARD -m comment --comment "fairlead cluster" -j FAIRLEAD-CLUSTER
-I FORWARD -m comment --comment "fairlead firewall" -j FAIRLEAD-FORWARD
COMMIT
`;
  machine.feed(rules, 'iptables-restore', '--noflush');
  const legacy = rules.replaceAll(/.*(FAIRLEAD-FORWARD|ADMIN|-s 10).*\n/g, '');
  machine.feed(legacy, 'ip6tables-legacy-restore', '--noflush');
}

const subnets = ['--pod-cidr', '10.99.0.0/24,fd99::/64'];

test('cleanup leaves the node as it was before Fairlead, with all that is of others', async (t) => {
  const machine = new Machine(t);
  addForeign(machine);
  // Settings are no rows of ours: what the agent switches on stays on.
  for (const key of ['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding']) {
    machine.run('/usr/sbin/sysctl', '-qw', `${key}=1`);
  }
  const before = machine.state();
  const files = readdirSync(machine.directory, { recursive: true }).toSorted();
  await machine.start(...subnets);
  t.is((await machine.fairlead('install', '--plugins', 'fairlead,ptp')).code, 0);
  machine.attach();
  await machine.stop('SIGKILL');
  addOurs(machine);
  t.not(machine.state(), before);

  const dry = await machine.fairlead('cleanup', '--dry-run', '-o', 'json');
  t.is(dry.code, 0, dry.stderr);
  const { removed } = JSON.parse(dry.stdout);
  t.true(removed.link.includes('cni0') && removed.link.includes('ifb-left') && removed.link.length === 5);
  t.deepEqual(removed.route, ['100 203.0.113.0/24', '254 203.0.113.0/24']);
  t.is(removed.rule.length, 1);
  t.deepEqual(removed.nftables, ['inet fairlead']);
  t.deepEqual([removed['iptables-nft'], removed['iptables-legacy']], [['IPv4'], ['IPv6']]);
  t.true(removed.file.includes(machine.conflist) && removed.file.includes(machine.path('run', 'cni')));
  t.true(existsSync(machine.conflist));

  const cleaned = await machine.fairlead('cleanup', '-o', 'json');
  t.is(cleaned.code, 0, cleaned.stderr);
  t.deepEqual(JSON.parse(cleaned.stdout), { dryRun: false, removed, failed: [] });
  t.regex(cleaned.stderr, /removed from link: /);
  t.is(machine.state(), before);
  t.deepEqual(readdirSync(machine.directory, { recursive: true }).toSorted(), files);
  t.like(await machine.fairlead('cleanup'), { code: 0, stdout: 'nothing of Fairlead is here\n' });
});

test("a bridge of the operator's is used as it is, and cleanup leaves it as it was", async (t) => {
  const machine = new Machine(t);
  machine.space.ip(`
    link add br-op type bridge
    link set br-op addrgenmode none
    link set br-op mtu 1400
    link set br-op alias "of the operator"
    addr add 198.51.100.1/24 dev br-op
    link add uplink type veth peer name elsewhere
    link set uplink addrgenmode none
    link set elsewhere addrgenmode none
    link set uplink master br-op
    link set uplink up
    link set elsewhere up
    link set br-op up`);
  for (const key of ['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding']) {
    machine.run('/usr/sbin/sysctl', '-qw', `${key}=1`);
  }
  // Once a port carries.
  await machine.until(() => /multicast ff00::\/8 dev br-op/.test(machine.state()));
  const before = machine.state();
  const acceptRa = () => machine.run('/usr/sbin/sysctl', '-n', 'net.ipv6.conf.br-op.accept_ra').trim();
  t.is(acceptRa(), '1');
  await machine.start(...subnets);
  t.is((await machine.fairlead('install')).code, 0);
  const ranges = [[{ subnet: '10.98.0.0/24' }], [{ subnet: 'fd98::/64' }]];
  const config = {
    cniVersion: '1.0.0',
    name: 'op',
    type: 'fairlead',
    bridge: 'br-op',
    mtu: 1300,
    ipam: { ranges },
  };
  machine.attach({ ...config, promiscMode: true });
  const link = machine.run('/usr/sbin/ip', '-o', 'addr', 'show', 'br-op');
  t.regex(link, /198\.51\.100\.1\/24[\s\S]*10\.98\.0\.1\/24[\s\S]*fd98::1\/64/);
  t.regex(
    machine.run('/usr/sbin/ip', 'link', 'show', 'br-op'),
    /PROMISC.* mtu 1400 [\s\S]*alias of the operator/,
  );
  t.is(acceptRa(), '0');
  await machine.stop('SIGKILL');

  const cleaned = await machine.fairlead('cleanup', '-o', 'json');
  t.is(cleaned.code, 0, cleaned.stderr);
  const ours = ['br-op 10.98.0.1/24', 'br-op fd98::1/64', 'br-op promisc'];
  t.deepEqual(JSON.parse(cleaned.stdout).removed['bridge of others'], ours);
  t.is(machine.state(), before);
  t.is(acceptRa(), '1');
});

test('settings go back to what they were, except those that somebody changed since; keys are removed', async (t) => {
  const machine = new Machine(t);
  const sysctl = (...words: string[]) => machine.run('/usr/sbin/sysctl', '-q', ...words).trim();
  const [v4, v6] = ['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'] as const;
  for (const key of [v4, v6]) sysctl('-w', `${key}=0`);
  await machine.start(...subnets);
  await machine.until(() => sysctl('-n', v4) === '1' && sysctl('-n', v6) === '1');
  await machine.stop('SIGKILL');
  await machine.start(...subnets);
  await machine.stop('SIGKILL');
  writeFileSync(machine.path('run', 'wireguard.key'), 'a key\n');
  sysctl('-w', `${v6}=2`);
  const dry = await machine.fairlead('cleanup', '--dry-run');
  t.regex(dry.stdout, /would remove sysctl net\/ipv4\/ip_forward\n/);
  t.is((await machine.fairlead('cleanup')).code, 0);
  t.deepEqual([sysctl('-n', v4), sysctl('-n', v6)], ['0', '2']);
  t.false(existsSync(machine.path('run')));
});

test('settings that pods needed go back: forwarding for type ptp, 127.0.0.1 by way of a bridge of others', async (t) => {
  const machine = new Machine(t);
  const sysctl = (key: string) => machine.run('/usr/sbin/sysctl', '-n', key).trim();
  const keys = ['net.ipv4.ip_forward', 'net.ipv4.conf.br-op.route_localnet'];
  // Without a subnet the agent itself has nothing to switch on.
  machine.space.ip('link set up0 down');
  machine.space.ip('link add br-op type bridge');
  machine.run('/usr/sbin/sysctl', '-qw', 'net.ipv4.ip_forward=0');
  await machine.start(...subnets);
  t.is((await machine.fairlead('install', '--no-conflist')).code, 0);
  t.deepEqual(keys.map(sysctl), ['0', '0']);
  const config = { cniVersion: '1.0.0', name: 'op', type: 'fairlead' };
  machine.attach({ ...config, mode: 'ptp', ipam: { ranges: [[{ subnet: '10.97.0.0/24' }]] } });
  t.deepEqual(keys.map(sysctl), ['1', '0']);
  const portMappings = [{ hostPort: 8080, containerPort: 80 }];
  const ipam = { ranges: [[{ subnet: '10.98.0.0/24' }]] };
  machine.attach({ ...config, bridge: 'br-op', ipam, runtimeConfig: { portMappings } });
  t.deepEqual(keys.map(sysctl), ['1', '1']);
  await machine.stop('SIGKILL');
  t.is((await machine.fairlead('cleanup')).code, 0);
  t.deepEqual(keys.map(sysctl), ['0', '0']);
});

test('what an install left that was killed goes', async (t) => {
  const machine = new Machine(t);
  const [ours, others] = [
    ['bin/bridge.4711.new', 'net.d/05-fairlead.conflist.4711.new'],
    ['bin/dhcp.4711.new', 'bin/bridge.new', 'net.d/10-other.conflist.4711.new'],
  ];
  for (const directory of ['bin', 'net.d']) mkdirSync(machine.path(directory));
  for (const file of [...ours, ...others]) writeFileSync(machine.path(file), 'half');
  const { stdout } = await machine.fairlead('cleanup', '--dry-run');
  t.is(stdout.split('\n').filter((line) => line.startsWith('would remove file')).length, ours.length);
  t.is((await machine.fairlead('cleanup')).code, 0);
  t.deepEqual(
    [...ours, ...others].filter((file) => existsSync(machine.path(file))),
    others,
  );
});

test('what others have in the runtime directory stays', async (t) => {
  const machine = new Machine(t);
  mkdirSync(machine.path('run', 'cni', 'networks'), { recursive: true });
  mkdirSync(machine.path('run', 'cni-queue'));
  writeFileSync(machine.path('run', 'other'), '');
  t.is((await machine.fairlead('cleanup')).code, 0);
  t.deepEqual(readdirSync(machine.path('run')).toSorted(), ['cni', 'other']);
});

test('cleanup refuses while an agent runs, also one that is stopped, unless forced', async (t) => {
  const machine = new Machine(t);
  await machine.start(...subnets, '--cni-conf-dir', machine.path('net.d'));
  await machine.until(() => existsSync(machine.conflist) && /fd99::1\/64/.test(machine.state()));
  const state = machine.state();
  const refused = await machine.fairlead('cleanup');
  t.is(refused.code, 1);
  t.regex(refused.stderr, new RegExp(`process ${machine.pid}\\b.*stop it first, or use --force`));
  process.kill(machine.pid, 'SIGSTOP');
  const silent = await machine.fairlead('cleanup');
  t.is(silent.code, 1);
  t.regex(silent.stderr, new RegExp(`process ${machine.pid}\\b`));
  t.is(machine.state(), state);
  t.true(existsSync(machine.conflist));
  t.is((await machine.fairlead('cleanup', '--force')).code, 0);
  t.false(existsSync(machine.conflist));
  process.kill(machine.pid, 'SIGCONT');
});

test('the conflist comes when the node is ready, not before, and stays when the agent stops', async (t) => {
  const machine = new Machine(t);
  machine.space.ip('link set up0 down');
  await machine.start(...subnets, '--cni-conf-dir', machine.path('net.d'));
  const early = await machine.fairlead('install', '--timeout', '0');
  t.is(early.code, 1);
  t.regex(early.stderr, /the plugin is installed, but not 05-fairlead\.conflist: no node agent is ready/);
  t.deepEqual(readdirSync(machine.path('bin')), ['fairlead', 'loopback']);
  t.false(existsSync(machine.conflist));
  machine.space.ip(`
    link set up0 up
    route add default via 192.0.2.1
    addr replace 2001:db8::7/64 dev up0 nodad
    route add default via 2001:db8::1`);
  await machine.until(() => existsSync(machine.conflist));
  t.is((await machine.fairlead('install', '--timeout', '60')).code, 0);
  await machine.stop('SIGTERM');
  t.true(existsSync(machine.conflist));
});

test('install without an agent says what to start', async (t) => {
  const machine = new Machine(t);
  const { code, stderr } = await machine.fairlead('install', '--timeout', '0');
  t.is(code, 1);
  t.regex(stderr, /no node agent answers on .*run\/node\.sock; start it with `fairlead node`/);
});

test('on a full file system install is an error, and the plugins that were there stay whole', async (t) => {
  const machine = new Machine(t);
  mkdirSync(machine.path('bin'));
  execFileSync('/bin/mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', machine.path('bin')]);
  try {
    t.is((await machine.fairlead('install', '--no-conflist')).code, 0);
    const { code, stderr } = await machine.fairlead('install', '--no-conflist', '--plugins', 'all');
    t.is(code, 1);
    t.regex(stderr, /ENOSPC/);
    t.deepEqual(readdirSync(machine.path('bin')), ['fairlead', 'loopback']);
    t.true(machine.run(machine.path('bin', 'fairlead')) === '');
  } finally {
    execFileSync('/bin/umount', [machine.path('bin')]);
  }
});
