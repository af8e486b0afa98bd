import { statSync } from 'node:fs';
import { KernelError } from '../kernel/errors.ts';
import { type Namespace, openNamespace } from '../kernel/netns.ts';
import { PacketTracer, type TraceHop } from '../kernel/nftables-trace.ts';
import { protocolNumbers } from '../proxy/protocol.ts';
import type { TraceAnswer } from '../proxy/trace-request.ts';
import { judgeTrace, type TraceJudgement } from '../proxy/trace-verify.ts';
import { openProbe, type Probe, type ProbeAnswer } from './trace-probe.ts';

/** The client needs no longer to hear of a refusal, and sends its packet again after a second. */
const ANSWER_TIMEOUT_MS = 900;
/** From sending to the last hop that is waited for. */
const SENT_TIMEOUT_MS = 3_000;

/** What the kernel did with one packet. */
export interface Verification extends TraceJudgement {
  readonly sourcePort: number;
  readonly hops: readonly TraceHop[];
  /** To a packet that we sent. */
  readonly answer?: ProbeAnswer;
}

export interface VerifyOptions {
  /** Where the client is. */
  readonly netns: string | undefined;
  /** For a packet of somebody else's. */
  readonly waitMs: number;
  readonly onWait: () => void;
  readonly signal: AbortSignal;
}

/** Has one packet traced: sent by us where we can, else the next one that comes. Throws with what to do next. */
export async function verifyTrace(answer: TraceAnswer, options: VerifyOptions): Promise<Verification> {
  const { trace, backend } = answer;
  const { source, destination, port, protocol } = trace.packet;
  using stack = new DisposableStack();
  const node = stack.use(nodeNamespace(answer));
  const sender = options.netns === undefined ? undefined : stack.use(openNamespace(options.netns));
  const from = sender ?? (answer.isSourceHere ? node : undefined);
  const canSend = from !== undefined && protocol !== 'sctp';
  const probe = canSend ? stack.use(await probeFrom(from, { source, protocol }, options.netns)) : undefined;
  const sourcePort = probe?.port;
  const filter = { source, destination, protocol: protocolNumbers[protocol], port, sourcePort };
  const { signal } = options;
  const tracer = stack.use(await openTracer({ filter, namespaceFd: node.fd, signal }));
  if (probe === undefined) options.onWait();
  const [said, hops] = await Promise.all([
    probe?.send({ ip: destination, port }, ANSWER_TIMEOUT_MS),
    tracer.packet(probe === undefined ? options.waitMs : SENT_TIMEOUT_MS),
  ]);
  signal.throwIfAborted();
  const [first] = hops;
  if (first === undefined) throw notSeen(answer, said, options);
  const judged = judgeTrace(trace, hops, backend);
  return {
    ...judged,
    sourcePort: first.packet.sourcePort,
    hops,
    ...(said !== undefined && { answer: said }),
  };
}

/** The proxy's, by its number: this command may run in another one. */
function nodeNamespace({ pid, namespace }: TraceAnswer): Namespace {
  const paths = ['/proc/self/ns/net', `/proc/${pid}/ns/net`];
  const path = paths.find((each) => inodeOf(each) === namespace);
  if (path !== undefined) return openNamespace(path);
  throw new Error(
    `the network namespace of the service proxy (process ${pid}) cannot be seen from here; run this in the node's own namespaces, as root`,
  );
}

function inodeOf(path: string): string | undefined {
  try {
    return statSync(path, { bigint: true }).ino.toString();
  } catch {
    return undefined;
  }
}

async function probeFrom(
  { fd: namespaceFd }: Namespace,
  packet: { readonly source: TraceAnswer['trace']['packet']['source']; readonly protocol: 'tcp' | 'udp' },
  netns: string | undefined,
): Promise<Probe> {
  try {
    return await openProbe({ ...packet, namespaceFd });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRNOTAVAIL') throw error;
    const where = netns ?? 'this node';
    const look = netns === undefined ? 'ip address' : `nsenter --net=${netns} ip address`;
    throw new Error(`${packet.source} is no address of ${where}; see: ${look}`);
  }
}

async function openTracer(options: Parameters<typeof PacketTracer.open>[0]): Promise<PacketTracer> {
  try {
    return await PacketTracer.open(options);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    if (error.code === 'EPERM') throw new Error('--verify changes nftables: run it as root');
    const isOld = error.code === 'EOPNOTSUPP' || error.code === 'EINVAL';
    throw isOld ? new Error(`${error.message}; --verify needs Linux 5.12 or newer`) : error;
  }
}

function notSeen(
  { backend, trace }: TraceAnswer,
  said: ProbeAnswer | undefined,
  { netns, waitMs }: VerifyOptions,
) {
  const { source } = trace.packet;
  if (said === undefined) {
    const hint = 'send one, or name the namespace to send from with --netns';
    return new Error(`no such packet came to this node in ${waitMs / 1000} s; ${hint}`);
  }
  if (backend === 'iptables')
    return new Error(
      'the packet met no rule of nftables: iptables-legacy has no such trace, look with its TRACE target',
    );
  const where = netns === undefined ? 'the node' : `${netns}: does ${source} have its route over this node?`;
  return new Error(
    `a packet was sent (${said}), and none came to the rules of this node; it was sent from ${where}`,
  );
}
