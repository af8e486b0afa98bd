import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';
import { openSpace, type Space } from './kernel-space.ts';

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A machine with a wire to nobody; the agent, when it runs, is ready on it. */
class Machine {
  readonly space: Space;
  readonly directory = mkdtempSync('/run/fairlead-cleanup-');
  readonly #t: ExecutionContext;
  #agent: ChildProcess | undefined;
  #pods = 0;

  constructor(t: ExecutionContext) {
    this.#t = t;
    this.space = openSpace(t);
    this.space.ip(`
      link set lo up
      link add up0 type veth peer name up1
      link set up0 addrgenmode none
      link set up1 addrgenmode none
      link set up1 up
      link set up0 up
      addr add 192.0.2.7/24 dev up0
      route add default via 192.0.2.1
      addr add 2001:db8::7/64 dev up0 nodad
      route add 2001:db8:1::/48 via 2001:db8::1
      route add default via 2001:db8::1`);
    // In the other direction: an agent that still runs would write to it.
    t.teardown(() => rmSync(this.directory, { recursive: true, force: true }));
    t.teardown(() => this.stop('SIGKILL'));
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts);
  }

  get conflist(): string {
    return this.path('net.d', '05-fairlead.conflist');
  }

  /** Starts the agent, until it answers; it need not be ready then. */
  async start(...options: string[]): Promise<void> {
    const args = ['node', '--node-name', 'n1', '--run-dir', this.path('run'), '--no-proxy', ...options];
    const [program, ...words] = this.#inside(process.execPath, CLI, ...args);
    this.#agent = spawn(program, words, { stdio: 'ignore' });
    await this.until(() => existsSync(this.path('run', 'node.sock')));
  }

  async stop(signal: NodeJS.Signals): Promise<void> {
    const agent = this.#agent;
    if (agent === undefined || agent.exitCode !== null || agent.signalCode !== null) return;
    const exit = once(agent, 'exit');
    agent.kill(signal);
    await exit;
  }

  get pid(): number {
    return this.#agent?.pid ?? -1;
  }

  /** `fairlead …` on this machine, with its directories. */
  fairlead(command: 'install' | 'cleanup', ...options: string[]): Promise<Outcome> {
    const places = ['--run-dir', this.path('run'), '--cni-bin-dir', this.path('bin')];
    const args = [command, ...places, '--cni-conf-dir', this.path('net.d'), ...options];
    const [program, ...words] = this.#inside(process.execPath, CLI, ...args);
    return new Promise((resolve) => {
      execFile(program, words, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr }),
      );
    });
  }

  run(...command: string[]): string {
    const [program, ...args] = this.#inside(...command);
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Runs a command that reads this. */
  feed(input: string, ...command: string[]): void {
    const [program, ...args] = this.#inside(...command);
    execFileSync(program, args, { input, encoding: 'utf8', stdio: ['pipe', 'ignore', 'pipe'] });
  }

  /** A pod, by default of the network in the conflist. */
  attach(config: object = { cniVersion: '1.0.0', name: 'fairlead', type: 'fairlead' }): void {
    this.#pods += 1;
    const id = `cleanup-${this.space.name}-${this.#pods}`;
    const netns = `/run/netns/${id}`;
    createNamespace(netns);
    this.#t.teardown(() => deleteNamespace(netns));
    const [program, ...args] = this.#inside(this.path('bin', 'fairlead'));
    const env = {
      CNI_COMMAND: 'ADD',
      CNI_CONTAINERID: id,
      CNI_NETNS: netns,
      CNI_IFNAME: 'eth0',
      CNI_PATH: '/x',
    };
    execFileSync(program, args, {
      env: { ...env, FAIRLEAD_SOCKET: this.path('run', 'cni.sock') },
      input: JSON.stringify(config),
      stdio: ['pipe', 'ignore', 'inherit'],
    });
  }

  /** What the kernel has, as independent programs tell it; without numbers that the kernel counts up. */
  state(): string {
    const commands = ['link', 'addr', 'route show table all', '-6 route show table all', 'rule', '-6 rule'];
    const shown = commands.map((command) => this.run('/usr/sbin/ip', '-o', ...command.split(' ')));
    shown.push(this.run('/usr/sbin/tc', 'qdisc'), this.run('/usr/sbin/nft', '-s', 'list', 'ruleset'));
    shown.push(this.run('ip6tables-legacy', '-S', 'FORWARD'));
    return shown
      .join('\n')
      .replaceAll(/^\d+: /gm, '')
      .replaceAll(/ expires \d+sec/g, '');
  }

  async until(check: () => boolean): Promise<void> {
    for (const end = performance.now() + 60_000; !check(); ) {
      if (performance.now() > end) throw new Error('it does not come');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  #inside(...command: string[]): [string, ...string[]] {
    return ['nsenter', `--net=${this.space.path}`, ...command];
  }
}

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
