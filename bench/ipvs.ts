import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Ip } from '../core/address.ts';
import { createNamespace, deleteNamespace, openNamespace } from '../kernel/netns.ts';
import type { SyncResult } from '../proxy/backend.ts';
import { type IpvsBackend, openIpvs } from '../proxy/ipvs/backend.ts';
import { IpvsPlan } from '../proxy/ipvs/plan.ts';
import { defaultPolicy } from '../proxy/policy.ts';
import type { ServicePortView } from '../proxy/view.ts';
import { missingIpvs } from '../test/netns/missing-ipvs.ts';
import type { Entry, Frame } from './frame.ts';

export const description = 'the service proxy in mode ipvs, against the same virtual servers by ipvsadm';

const IPVSADM = '/usr/sbin/ipvsadm';
const NSENTER = '/usr/bin/nsenter';
const ENDPOINTS = 3;

/** Services with a cluster IP and three endpoints each. Where the kernel has no IPVS all of it runs in a virtual machine. */
export async function run(frame: Frame): Promise<void> {
  const sizes = frame.quick ? [100] : [100, 1_000, 5_000];
  const why = await missingIpvs();
  if (why !== undefined && !frame.quick) return await measureInMachine(frame, why);
  for (const services of sizes) planned(frame, services);
  if (why !== undefined) return frame.missing('mode ipvs', why);
  if (!existsSync(IPVSADM)) frame.missing('ipvsadm', 'it is not installed');
  for (const services of sizes) await measure(frame, services);
}

/** In that of the tests (test/vm): an emulated one, whose figures say something only beside each other. */
async function measureInMachine(frame: Frame, why: string): Promise<void> {
  frame.progress(`${why}: it is measured in a virtual machine`);
  const command = [join(import.meta.dirname, '../test/vm/main.ts'), '--entries', 'bench/ipvs.ts'];
  const options = { cwd: join(import.meta.dirname, '..'), maxBuffer: 64 << 20 };
  const running = promisify(execFile)(process.execPath, command, options);
  running.child.stderr?.pipe(process.stderr);
  running.child.stdout?.on('data', (text: string) => {
    for (const [, said = ''] of text.matchAll(/^ipvs: (.*)$/gm)) frame.progress(said);
  });
  const { stdout } = await running.catch((error: { code?: unknown; stdout?: string }) => {
    if (error.code === EXIT_NO_MACHINE) return { stdout: '' };
    process.stderr.write(error.stdout ?? '');
    throw error;
  });
  const line = stdout.split('\n').find((each) => each.startsWith('[{'));
  if (line === undefined) {
    process.stderr.write(stdout);
    return frame.missing('mode ipvs', `${why}, and there is no virtual machine (above)`);
  }
  const [, version = 'Linux'] = /^vm: (Linux \S+),/m.exec(stdout) ?? [];
  frame.elsewhere(`${version} in an emulated machine`, JSON.parse(line) as Entry[]);
}

/** Of test/vm/main.ts. */
const EXIT_NO_MACHINE = 3;

function nameOf(services: number): string {
  return `${services.toLocaleString('en')} Services × ${ENDPOINTS}`;
}

/** Without the kernel. */
function planned(frame: Frame, services: number): void {
  const views = viewsOf(services);
  const times: number[] = [];
  for (let round = 0; round < (frame.quick ? 1 : 5); round += 1) {
    const plan = new IpvsPlan({ scheduler: 'rr', drainMs: 0, now: () => 0 });
    const startMs = performance.now();
    plan.follow(views);
    plan.drain();
    times.push(performance.now() - startMs);
  }
  frame.samples(`plan, ${nameOf(services)}`, times);
}

async function measure(frame: Frame, services: number): Promise<void> {
  const name = nameOf(services);
  const rounds = frame.quick ? 1 : 3;
  const times = {
    load: [] as number[],
    restart: [] as number[],
    change: [] as number[],
    tool: [] as number[],
  };
  for (let round = 0; round < rounds; round += 1) {
    frame.progress(`${name}: round ${round + 1} of ${rounds}`);
    await using space = new Space();
    const views = viewsOf(services);
    times.load.push(await space.timed((backend) => backend.replace(views)));
    times.restart.push(await space.timed((backend) => backend.replace(views)));
    for (let change = 0; change < (frame.quick ? 1 : 20); change += 1) {
      const number = (change * 37) % services;
      const changed = new Map([[`default/s${number}`, [portOf(number, change % 2)]]]);
      times.change.push(await space.timed((backend) => backend.update(changed)));
    }
    if (existsSync(IPVSADM)) times.tool.push(await space.restored());
  }
  frame.samples(`all, ${name}`, times.load);
  frame.samples(`all read back, nothing to do, ${name}`, times.restart);
  frame.samples(`one endpoint replaced, ${name}`, times.change);
  if (times.tool.length === 0) return;
  frame.samples(`ipvsadm -R, ${name}`, times.tool);
  frame.ratio(`all / ipvsadm -R, ${name}`, times.load, times.tool);
  frame.ratio(`one endpoint / ipvsadm -R, ${name}`, times.change, times.tool);
}

/** A namespace with a backend. */
class Space implements AsyncDisposable {
  readonly #path = `/run/netns/fl-bench-${randomBytes(4).toString('hex')}`;
  readonly #stack = new DisposableStack();
  readonly #backend: IpvsBackend;

  constructor() {
    mkdirSync('/run/netns', { recursive: true });
    createNamespace(this.#path);
    this.#stack.defer(() => deleteNamespace(this.#path));
    const { fd } = this.#stack.use(openNamespace(this.#path));
    this.#inside(['/usr/sbin/ip', 'link', 'set', 'lo', 'up']);
    this.#backend = this.#stack.use(openIpvs({ policy: defaultPolicy, namespaceFd: fd }));
  }

  #inside(words: readonly string[], input?: string): string {
    const options = { input, encoding: 'utf8', maxBuffer: 64 << 20 } as const;
    return execFileSync(NSENTER, [`--net=${this.#path}`, ...words], options);
  }

  async timed(act: (backend: IpvsBackend) => Promise<SyncResult>): Promise<number> {
    const startMs = performance.now();
    const { failures } = await act(this.#backend);
    if (failures[0] !== undefined) throw failures[0].error;
    return performance.now() - startMs;
  }

  /** How long ipvsadm takes for the servers that are there, made from nothing. */
  async restored(): Promise<number> {
    const saved = this.#inside([IPVSADM, '-S', '-n']);
    this.#inside([IPVSADM, '-C']);
    const startMs = performance.now();
    this.#inside([IPVSADM, '-R'], saved);
    return performance.now() - startMs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stack[Symbol.dispose]();
  }
}

function viewsOf(services: number): Map<string, readonly ServicePortView[]> {
  return new Map(Array.from({ length: services }, (_, number) => [`default/s${number}`, [portOf(number)]]));
}

function portOf(number: number, generation = 0): ServicePortView {
  const [high, low] = [number >> 8, number & 255];
  const endpoints = Array.from({ length: ENDPOINTS }, (_, index) => ({
    // The last one changes.
    ip: `10.${16 + index + (index === ENDPOINTS - 1 ? generation : 0)}.${high}.${low}` as Ip,
    port: 8080,
    local: false,
    weight: 1,
  }));
  return {
    name: `default/s${number}:`,
    family: 4,
    protocol: 'tcp',
    frontends: [{ kind: 'clusterIP', ip: `10.96.${high}.${low}` as Ip, port: 80 }],
    clusterEndpoints: endpoints,
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    hasAnyEndpoints: true,
    balancing: 'random',
  };
}
