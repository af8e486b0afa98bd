import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import type { Cluster } from '../../../cli/cluster/cluster.ts';
import type { Machine } from '../../../cli/cluster/topology.ts';
import { renderConflist } from '../../../cni/install.ts';
import { makeRootFilesystem } from './root-filesystem.ts';

const PROGRAM = fileURLToPath(new URL('./runtime-host.sh', import.meta.url));
const SHIM = fileURLToPath(new URL('../../../.cache/native/fairlead-cni', import.meta.url));
const COMMAND_TIMEOUT_MS = 100_000;

/** A network of the runtime: the name of its file in /etc/cni/net.d, and its plugins. */
export interface Conflist {
  readonly cniVersion: string;
  readonly name: string;
  readonly plugins: readonly { readonly type: string; readonly capabilities?: object }[];
}

/** The one that the agent installs. */
export const FAIRLEAD_CONFLIST: Conflist = JSON.parse(renderConflist());

/** A chain as runtimes' own documents have it. */
export const PORTMAP_CONFLIST: Conflist = {
  ...FAIRLEAD_CONFLIST,
  plugins: [{ type: 'fairlead' }, { type: 'portmap', capabilities: { portMappings: true } }],
};

/** containerd has a network of its own with this type, for every sandbox. */
const BUILT_IN = { type: 'loopback' };

/**
 * A node of a lab with processes, mounts and cgroups of its own, where container runtimes are run as on any machine:
 * the plugin's types in /opt/cni/bin, the conflist in /etc/cni/net.d, the agent at /run/fairlead/cni.sock. The root
 * filesystem for containers is /mnt/rootfs. When it is disposed, or the test process ends, all of it is gone.
 */
export class RuntimeHost implements AsyncDisposable {
  readonly node: Machine;
  /** What is /mnt inside. */
  readonly directory: string;
  readonly #child: ChildProcess;
  readonly #pid: string;

  private constructor(node: Machine, directory: string, child: ChildProcess, pid: string) {
    this.node = node;
    this.directory = directory;
    this.#child = child;
    this.#pid = pid;
  }

  /** Gone when the test ends, and before the cluster when that was opened first. */
  static async open(
    t: ExecutionContext,
    options: { cluster: Cluster; node: Machine; conflist: Conflist },
  ): Promise<RuntimeHost> {
    const { cluster, node, conflist } = options;
    const directory = `${cluster.lab.directory}/${node.name}-runtime`;
    for (const folder of ['bin', 'net.d']) mkdirSync(`${directory}/${folder}`, { recursive: true });
    for (const { type } of [...conflist.plugins, BUILT_IN]) copyFileSync(SHIM, `${directory}/bin/${type}`);
    writeFileSync(`${directory}/net.d/10-${conflist.name}.conflist`, JSON.stringify(conflist));
    makeRootFilesystem(`${directory}/rootfs`);
    const args = [`/run/netns/${node.namespace}`, cluster.paths.run(node.name), directory];
    const child = spawn('sh', [PROGRAM, ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const host = new RuntimeHost(node, directory, child, await readyPid(child));
    t.teardown(() => host[Symbol.asyncDispose]());
    return host;
  }

  /** Output of a command on this machine; throws with what it said when it fails. */
  async exec(...command: string[]): Promise<string> {
    const options = { timeout: COMMAND_TIMEOUT_MS, env: ENVIRONMENT };
    try {
      return (await promisify(execFile)('nsenter', [...this.#entry, ...command], options)).stdout;
    } catch (error) {
      const { stdout, stderr, code } = error as { stdout: string; stderr: string; code: unknown };
      throw new Error(`${command.join(' ')} (${code}): ${stderr}${stdout}`);
    }
  }

  /** Starts a command that stays; it ends with this machine at the latest. */
  spawn(...command: string[]): ChildProcess {
    return spawn('nsenter', [...this.#entry, ...command], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: ENVIRONMENT,
    });
  }

  get #entry(): string[] {
    return [`--target=${this.#pid}`, '--net', '--mount', '--pid', '--cgroup', '--'];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const exit = once(this.#child, 'exit');
      this.#child.stdin?.end();
      await exit;
    }
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** The plugin gets nothing from the test: runtimes drop variables on the way to their clean-up anyway. */
const ENVIRONMENT = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/mnt',
  CONTAINERS_CONF: '/mnt/containers.conf',
  CONTAINERS_STORAGE_CONF: '/mnt/storage.conf',
};

async function readyPid(child: ChildProcess): Promise<string> {
  let errors = '';
  child.stderr?.setEncoding('utf8').on('data', (text) => {
    errors += text;
  });
  const said = child.stdout ? once(child.stdout, 'data') : Promise.reject(new Error('no stdout'));
  const ended = once(child, 'close').then(([code]) => {
    throw new Error(`the runtime's machine ended with ${code}: ${errors}`);
  });
  ended.catch(() => undefined);
  const [text] = await Promise.race([said, ended]);
  const pid = /^ready (\d+)/.exec(String(text))?.[1];
  if (pid === undefined) throw new Error(`the runtime's machine said ${text}`);
  return pid;
}

/** Throws when a program is not there: a runtime that is missing must not look like one that works. */
export function requirePrograms(...names: string[]): void {
  const missing = names.filter(
    (name) => !ENVIRONMENT.PATH.split(delimiter).some((dir) => isProgram(`${dir}/${name}`)),
  );
  if (missing.length > 0) {
    throw new Error(`not installed: ${missing.join(', ')}; sh scripts/setup.sh installs what the tests need`);
  }
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
