import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { packImage, WEB_SERVER } from './root-filesystem.ts';
import type { RuntimeHost } from './runtime-host.ts';

const SANDBOX_IMAGE = 'localhost/web:1';
const START_TIMEOUT_MS = 60_000;
const POLL_MS = 50;

/** Kubernetes' own namespace in containerd, where the CRI plugin looks for images. */
export const CRI_NAMESPACE = 'k8s.io';

// restrict_oom_score_adj and disable_cgroup: what a container on a test machine may not be allowed.
const CONFIG = `
version = 2
root = "/mnt/containerd"
state = "/run/containerd"
[grpc]
address = "/mnt/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "/mnt/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${SANDBOX_IMAGE}"
disable_cgroup = true
disable_tcp_service = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
`;

/** containerd on a machine of a lab; it ends with the machine. */
export class Containerd {
  readonly #host: RuntimeHost;

  private constructor(host: RuntimeHost) {
    this.#host = host;
  }

  /** Starts it and waits until it answers. */
  static async start(host: RuntimeHost): Promise<Containerd> {
    writeFileSync(`${host.directory}/containerd.toml`, CONFIG);
    const containerd = new Containerd(host);
    const daemon = host.spawn('containerd', '--config', '/mnt/containerd.toml');
    const log = collect(daemon);
    const end = performance.now() + START_TIMEOUT_MS;
    for (;;) {
      const answer = await containerd.ctr('version').catch((error: Error) => error);
      if (typeof answer === 'string') return containerd;
      if (daemon.exitCode !== null || performance.now() > end) {
        throw new Error(`containerd does not answer: ${answer.message} ${log()}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** Path outside of the machine. */
  get socketPath(): string {
    return `${this.#host.directory}/containerd.sock`;
  }

  ctr(...args: string[]): Promise<string> {
    return this.#host.exec('ctr', '--address', '/mnt/containerd.sock', ...args);
  }

  /**
   * Runs `command` in a new container with CNI. `ctr` stays with it until it ends, then detaches it from the network
   * and removes it; the answer is how that went.
   */
  run(name: string, command: readonly string[]): RunningContainer {
    // Without shares: their cgroup controller may be there for version 1 only.
    const options = ['--rm', '--cni', '--cgroup', '', '--cpu-shares', '0', '--rootfs'];
    const args = ['--address', '/mnt/containerd.sock', 'run', ...options, '/mnt/rootfs', name, ...command];
    const child = this.#host.spawn('ctr', ...args);
    const output = collect(child);
    const ended = once(child, 'close').then(([code]) => ({ code, output: output() }));
    return { ended };
  }

  /** Gives the CRI plugin the only image that it needs: the sandbox is itself a web server. */
  async importSandboxImage(): Promise<void> {
    const { directory } = this.#host;
    const archive = `${directory}/image.tar`;
    packImage({ rootfs: `${directory}/rootfs`, name: SANDBOX_IMAGE, entrypoint: WEB_SERVER, archive });
    await this.ctr(
      '--namespace',
      CRI_NAMESPACE,
      'images',
      'import',
      '--snapshotter',
      'native',
      '/mnt/image.tar',
    );
  }
}

export interface RunningContainer {
  readonly ended: Promise<{ code: number; output: string }>;
}

function collect(child: ChildProcess): () => string {
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (part) => {
      text += part;
    });
  }
  return () => text;
}
