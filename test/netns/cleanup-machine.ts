import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';
import { openSpace, type Space } from './kernel-space.ts';

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A machine with a wire to nobody; the agent, when it runs, is ready on it. */
export class Machine {
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
