import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { applyBatch } from '../../cli/cluster/lab.ts';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';
import { type Frame, interleave } from '../frame.ts';
import { NFT, Space } from './space.ts';
import { SubjectProcess } from './subject-process.ts';
import { ENDPOINTS_EACH, SERVICE_PORT, TARGET_PORT, World } from './world.ts';

const execute = promisify(execFile);
const ROUNDS = 12;
const CONNECTIONS = 2_000;
const CLIENT = '10.255.1.2';
const SERVERS = Array.from({ length: ENDPOINTS_EACH }, (_, index) => `10.255.2.${index + 2}`);

/**
 * How long connect() takes from a pod to one on the same node, over routed interfaces: to a Service among few, to one
 * among many, and to the pod itself where flows are tracked and addresses could be translated, but no Service is.
 */
export async function measureConnections(frame: Frame, many: number): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-bench-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const program = build(directory);
  if (program === undefined) return frame.missing('connect latency', 'no C compiler');
  const few = 10;
  frame.progress('connect latency');
  const labs = {
    none: stack.use(await ConnectLab.open(0)),
    few: stack.use(await ConnectLab.open(few)),
    many: stack.use(await ConnectLab.open(many)),
  };
  const count = frame.quick ? 200 : CONNECTIONS;
  const side = (lab: ConnectLab) => () => lab.connect(program, count);
  const times = await interleave(frame.quick ? 2 : ROUNDS, {
    none: side(labs.none),
    few: side(labs.few),
    many: side(labs.many),
  });
  const size = many.toLocaleString('en');
  frame.samples('connect, no Service but conntrack', times.none);
  frame.samples(`connect, ${few} Services`, times.few);
  frame.samples(`connect, ${size} Services`, times.many);
  const target = (atMost: number) => (frame.quick ? {} : { target: { atMost } });
  frame.ratio(`connect, ${size} / ${few} Services`, times.many, times.few, target(1.05));
  frame.ratio(`connect, ${size} Services / none`, times.many, times.none, target(1.1));
}

function build(directory: string): string | undefined {
  const program = join(directory, 'connect');
  const source = fileURLToPath(new URL('./connect.c', import.meta.url));
  try {
    execFileSync('cc', ['-O2', '-pthread', '-o', program, source]);
    return program;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** What a node has that tracks flows and translates some addresses, but none of these. */
const conntrackOnly = `add table ip bench
add chain ip bench prerouting { type nat hook prerouting priority -100 ; }
add chain ip bench output { type nat hook output priority -100 ; }
add chain ip bench postrouting { type nat hook postrouting priority 100 ; }
add chain ip bench forward { type filter hook forward priority 0 ; }
add rule ip bench forward ct state invalid drop`;

/** A node, a pod with the client and a pod with the server. */
class ConnectLab implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #client: string;
  readonly #server: string;
  readonly #target: { readonly address: string; readonly port: number };

  private constructor(
    stack: AsyncDisposableStack,
    pods: { readonly client: string; readonly server: string },
    target: { readonly address: string; readonly port: number },
  ) {
    this.#stack = stack;
    this.#client = pods.client;
    this.#server = pods.server;
    this.#target = target;
  }

  /** Connections go to the first of the Services, or, without any, to the pod itself. */
  static async open(services: number): Promise<ConnectLab> {
    await using stack = new AsyncDisposableStack();
    const node = stack.use(new Space());
    const pods = { client: namespace(stack), server: namespace(stack) };
    await wire(node, pods);
    if (services > 0) {
      const subject = stack.use(await SubjectProcess.start(node, services));
      await subject.point(SERVERS);
    } else await node.run([NFT, conntrackOnly]);
    const address = services > 0 ? new World(1).service(0).clusterIp : (SERVERS[0] ?? '');
    const target = { address, port: services > 0 ? SERVICE_PORT : TARGET_PORT };
    return new ConnectLab(stack.move(), pods, target);
  }

  /** In milliseconds. */
  async connect(program: string, count: number): Promise<number[]> {
    const { address, port } = this.#target;
    const [server, client] = [this.#server, this.#client].map((name) => `/run/netns/${name}`);
    const processor = availableParallelism() - 1;
    const args = [processor, server, TARGET_PORT, client, address, port, count].map(String);
    const { stdout } = await execute(program, args);
    return stdout
      .trim()
      .split('\n')
      .map((nanoseconds) => Number(nanoseconds) / 1e6);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

function namespace(stack: AsyncDisposableStack): string {
  const name = `bench-${randomBytes(6).toString('hex')}`;
  createNamespace(`/run/netns/${name}`);
  stack.defer(() => deleteNamespace(`/run/netns/${name}`));
  return name;
}

async function wire(node: Space, { client, server }: { client: string; server: string }): Promise<void> {
  await applyBatch({
    namespace: node.name,
    lines: [
      'link set lo up',
      `link add client type veth peer name eth0 netns ${client}`,
      `link add server type veth peer name eth0 netns ${server}`,
      'addr add 10.255.1.1/24 dev client',
      'addr add 10.255.2.1/24 dev server',
      'link set client up',
      'link set server up',
    ],
  });
  const pod = (addresses: readonly string[], gateway: string) => [
    'link set lo up',
    ...addresses.map((address) => `addr add ${address}/24 dev eth0`),
    'link set eth0 up',
    `route add default via ${gateway}`,
  ];
  await applyBatch({ namespace: client, lines: pod([CLIENT], '10.255.1.1') });
  await applyBatch({ namespace: server, lines: pod(SERVERS, '10.255.2.1') });
  await node.run(['sysctl', '-qw', 'net.ipv4.ip_forward=1']);
}
