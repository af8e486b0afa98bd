import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import { NSENTER, openNftSpace } from './nftables-space.ts';

/*
 * One namespace with an API server of ours and the command in the place of kube-proxy, as users start them. A Service
 * without endpoints is enough to see rules.
 */
const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));
const run = promisify(execFile);
/** The size of the table of connections is the whole machine's: it is left alone. */
export const SAFE = ['--conntrack-max-per-core=0', '--oom-score-adj=0', '--hostname-override=Node-1'];

export class Stage {
  readonly path: string;
  readonly #t: ExecutionContext;
  readonly folder = mkdtempSync(join(tmpdir(), 'fairlead-proxy-'));
  readonly nft: (command: string) => string;
  readonly load: (text: string) => void;

  constructor(t: ExecutionContext) {
    const { path, nft, load } = openNftSpace(t);
    this.#t = t;
    this.path = path;
    this.nft = nft;
    this.load = load;
    t.teardown(() => rmSync(this.folder, { recursive: true }));
  }

  get kubeconfig(): string {
    return join(this.folder, 'control/kubeconfig');
  }

  get runDir(): string {
    return join(this.folder, 'run');
  }

  async inside(...words: string[]): Promise<string> {
    return (await run(NSENTER, [`--net=${this.path}`, ...words])).stdout;
  }

  /** GETs from inside: "status body". */
  async get(url: string): Promise<string> {
    const program = `fetch(process.argv[1]).then(async (r) => console.log(r.status, await r.text()), (e) => console.log(e.cause.code))`;
    return (await this.inside(process.execPath, '-e', program, url)).trimEnd();
  }

  /** The command in the namespace; killed with the test. */
  start(...args: string[]) {
    const words = args[0] === 'proxy' ? [...args, '--run-dir', this.runDir] : args;
    const child = spawn(NSENTER, [`--net=${this.path}`, process.execPath, CLI, ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#t.teardown(() => child.kill('SIGKILL'));
    let said = '';
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (part: string) => {
        said += part;
      });
    return { child, said: () => said };
  }

  async openApi(): Promise<void> {
    await this.inside('/usr/sbin/ip', 'link', 'set', 'lo', 'up');
    const { said } = this.start('controlplane', '--state-dir', join(this.folder, 'control'));
    await until(() => existsSync(this.kubeconfig) && said().includes('serving'), said);
    const program = `
      const { KubeClient } = await import(${JSON.stringify(new URL('../../kube/client.ts', import.meta.url).href)});
      const { loadKubeConfig } = await import(${JSON.stringify(new URL('../../kube/config.ts', import.meta.url).href)});
      const { NODES, SERVICES } = await import(${JSON.stringify(new URL('../../kube/types.ts', import.meta.url).href)});
      const client = new KubeClient(await loadKubeConfig(process.argv[1]));
      await client.create(NODES, { apiVersion: 'v1', kind: 'Node', metadata: { name: 'node-1' } });
      await client.create(SERVICES, { apiVersion: 'v1', kind: 'Service', metadata: { name: 'web', namespace: 'default' },
        spec: { clusterIP: '10.96.7.7', ports: [{ port: 80 }] } });
      client[Symbol.dispose]();`;
    await this.inside(process.execPath, '--input-type=module', '-e', program, this.kubeconfig);
  }
}

export async function until(condition: () => boolean | Promise<boolean>, said: () => string): Promise<void> {
  for (let tries = 0; !(await condition()); tries += 1) {
    if (tries > 1_200) throw new Error(`it did not come to pass: ${said()}`);
    await sleep(50);
  }
}

export async function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  const [code] = (await once(child, 'exit')) as [number | null];
  return code;
}
