import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import { eventually } from '../cni/node.ts';

const run = promisify(execFile);
const programs = {
  bus: '/usr/bin/dbus-daemon',
  firewalld: '/usr/sbin/firewalld',
  command: '/usr/bin/firewall-cmd',
} as const;

/** Why firewalld cannot be tested here. */
export function missingFirewalld(): string | undefined {
  const missing = Object.values(programs).find((path) => !existsSync(path));
  return missing === undefined ? undefined : `there is no ${missing}`;
}

/** Everybody may do everything: only this test knows the bus. */
const busConfig = (socket: string) => `<!DOCTYPE busconfig PUBLIC
  "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=${socket}</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
`;

/** A real firewalld in a network namespace, at a system bus of its own. Gone when the test ends. */
export class Firewalld {
  readonly #directory = mkdtempSync('/run/fairlead-firewalld-');
  readonly #namespace: string;
  readonly #running: ChildProcess[] = [];

  private constructor(namespace: string) {
    this.#namespace = namespace;
  }

  /** `namespace` is a path. */
  static async open(t: ExecutionContext, namespace: string): Promise<Firewalld> {
    const firewalld = new Firewalld(namespace);
    t.teardown(() => firewalld.#end());
    const socket = join(firewalld.#directory, 'bus');
    writeFileSync(join(firewalld.#directory, 'bus.conf'), busConfig(socket));
    mkdirSync(join(firewalld.#directory, 'etc'));
    firewalld.#begin(programs.bus, `--config-file=${firewalld.#directory}/bus.conf`, '--nofork');
    if (!(await eventually(async () => existsSync(socket)))) throw new Error('no bus');
    await firewalld.start();
    return firewalld;
  }

  get busAddress(): string {
    return `unix:path=${this.#directory}/bus`;
  }

  /** Waits until it is there. */
  async start(): Promise<void> {
    const config = [`--system-config=${this.#directory}/etc`, `--log-file=${this.#directory}/log`];
    const words = ['--nofork', '--nopid', '--log-target=file', ...config];
    this.#begin('/usr/bin/nsenter', `--net=${this.#namespace}`, programs.firewalld, ...words);
    const isThere = () =>
      this.command('--state').then(
        () => true,
        () => false,
      );
    if (!(await eventually(isThere))) throw new Error('no firewalld');
  }

  /** As the operator's service manager would. */
  async stop(): Promise<void> {
    await end(this.#running.pop());
  }

  /** Stands still, and answers nobody, or goes on. */
  freeze(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#running.at(-1)?.kill(signal);
  }

  async command(...words: string[]): Promise<string> {
    return (await run(programs.command, words, { env: this.#env() })).stdout.trim();
  }

  async sources(zone = 'trusted'): Promise<string[]> {
    const text = await this.command(`--zone=${zone}`, '--list-sources');
    return text === '' ? [] : text.split(' ').toSorted();
  }

  #env(): NodeJS.ProcessEnv {
    return { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: this.busAddress };
  }

  #begin(program: string, ...words: string[]): void {
    this.#running.push(spawn(program, words, { stdio: 'ignore', env: this.#env() }));
  }

  async #end(): Promise<void> {
    this.freeze('SIGCONT');
    for (const one of this.#running.toReversed()) await end(one);
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

async function end(process: ChildProcess | undefined): Promise<void> {
  if (process === undefined || process.exitCode !== null || process.signalCode !== null) return;
  process.kill('SIGTERM');
  await once(process, 'exit');
}
