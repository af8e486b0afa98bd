import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { serveStatus } from '../../cli/node-status.ts';
import { tracePages } from '../../cli/status-pages.ts';
import type { Verification } from '../../cli/trace-verify.ts';
import type { Family, Ip } from '../../core/address.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { type KubeObject, SERVICE_CIDRS } from '../../kube/types.ts';
import type { Backend } from '../../proxy/backend.ts';
import type { TraceAnswer } from '../../proxy/trace-request.ts';
import { labName } from './lab.ts';
import { NSENTER } from './nftables-space.ts';
import { ProxyLab } from './proxy-lab.ts';

const TRIES = 3;
const NETWORK_LIMIT_MS = 30_000;
const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly error: string;
}

export type Result = TraceAnswer & { readonly verification: Verification };

/** The packet went its way, and what came back came too late. */
function lacksAnswer({ trace: { verdict }, verification: { agrees, answer } }: Result): boolean {
  return agrees && answer === 'no answer' && (verdict === 'balanced' || verdict === 'refused');
}

/** A proxy that can be asked, and `fairlead trace` beside it on its node. */
export class TraceStage implements AsyncDisposable {
  readonly lab: ProxyLab;
  readonly #stack = new AsyncDisposableStack();
  readonly #runDir = mkdtempSync(join(tmpdir(), 'fairlead-trace-'));

  private constructor(lab: ProxyLab) {
    this.lab = this.#stack.use(lab);
    this.#stack.defer(() => rmSync(this.#runDir, { recursive: true }));
  }

  /** Without a backend: nftables. */
  static async open(backendOf?: (lab: ProxyLab) => Backend): Promise<TraceStage> {
    const stage = new TraceStage(await ProxyLab.open(labName()));
    await stage.#serve(backendOf);
    return stage;
  }

  async #serve(backendOf?: (lab: ProxyLab) => Backend): Promise<void> {
    const namespace = this.#stack.use(openNamespace(`/run/netns/${this.lab.node.namespace}`));
    const backend = backendOf?.(this.lab);
    await this.lab.startProxy(backend ? { backend } : {});
    const status = () => ({ name: 'node-1', pid: process.pid, ready: true, startedAt: '' });
    const pages = tracePages(() => this.lab.proxy, namespace.fd);
    this.#stack.use(await serveStatus(join(this.#runDir, 'proxy.sock'), status, pages));
  }

  /** Makes the cluster IPs' network known, and waits until the proxy knows it; an address of it that no Service has. */
  async announceNetwork(family: Family): Promise<Ip> {
    const network = family === 4 ? '10.96.0.0/16' : 'fd00:10:96::/64';
    const object = { metadata: { name: `network-${family}` }, spec: { cidrs: [network] } };
    this.lab.api.put(SERVICE_CIDRS, object as KubeObject);
    for (const end = performance.now() + NETWORK_LIMIT_MS; performance.now() < end; await sleep(20))
      if (this.lab.proxy.facts?.serviceCidrs.some((cidr) => cidr === network)) break;
    return (family === 4 ? '10.96.0.99' : 'fd00:10:96::99') as Ip;
  }

  command(args: readonly string[]): string[] {
    const where = `--net=/run/netns/${this.lab.node.namespace}`;
    return [where, process.execPath, CLI, 'trace', '--run-dir', this.#runDir, ...args];
  }

  trace(...args: string[]): Promise<Ran> {
    return new Promise((resolve) => {
      execFile(NSENTER, this.command(args), (failure, out, error) => {
        resolve({ code: failure === null ? 0 : Number(failure.code), out, error });
      });
    });
  }

  /**
   * With the packet sent, and its hops. On a busy machine the command may not have the patience for an answer, or even
   * for the packet: it is asked again.
   */
  async verified(t: ExecutionContext, code: number, ...args: string[]): Promise<Result> {
    for (let tries = 1; ; tries += 1) {
      const ran = await this.trace(...args, '--verify', '-o', 'json');
      const isRight = ran.code === code && ran.out !== '' && !lacksAnswer(JSON.parse(ran.out) as Result);
      if (!isRight && tries < TRIES) continue;
      t.is(ran.code, code, ran.error + ran.out);
      return JSON.parse(ran.out) as Result;
    }
  }

  inPod(pod: string): string[] {
    return ['--netns', `/run/netns/${this.lab.node.namespace.replace(/node-1$/, `pod-${pod}`)}`];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

/** Our comments and others' chains that the packet met, without the ends of chains. */
export function met({ verification: { hops } }: Result): string[] {
  return hops.map(({ hook, table, steps }) => {
    return `${hook} ${table}: ${steps.flatMap(({ kind, comment }) => (kind === 'rule' ? (comment ?? 'rule') : [])).join(', ')}`;
  });
}

export const place = (ip: Ip, port: number | undefined) =>
  ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
