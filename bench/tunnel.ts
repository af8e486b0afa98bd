import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { applyBatch } from '../cli/cluster/lab.ts';
import { inNamespace } from '../cli/cluster/workload-client.ts';
import type { Cidr, Ip } from '../core/address.ts';
import { reconcile } from '../core/reconcile.ts';
import { layer } from '../core/rows.ts';
import { type LinkRow, LinkTable, linkKey } from '../kernel/link.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { createNamespace, deleteNamespace, openNamespace } from '../kernel/netns.ts';
import { type TunnelRow, TunnelTable, tunnelKey } from '../kernel/tunnel.ts';
import { type Frame, interleave } from './frame.ts';

export const description =
  'the udp backend: TCP through its pump, and through a plain loop of read and write';

const PORT = 8285;
const device = 'fl-udp';
/** What goes over the wire in the time of one sample is told as the time for so much. */
const SAMPLE_BYTES = 1e9;

/**
 *     left 10.99.0.1 ── wire 192.0.2.1 ─ 192.0.2.2, packets of 1500 bytes ── right 10.99.0.2
 *
 * The wire is a pair of interfaces, so segments may pass it uncut, as with a network card that cuts them.
 */
export async function run(frame: Frame): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-bench-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const program = build(directory);
  if (program === undefined) return frame.missing('udp backend', 'no C compiler');
  const rounds = frame.quick ? 1 : 7;
  const durationMs = frame.quick ? 200 : 1500;
  const sides = {
    plain: stack.use(await Wire.open(program, 'plain', 'plain')),
    fairlead: stack.use(await Wire.open(program, 'fairlead', 'fairlead')),
    mixed: stack.use(await Wire.open(program, 'fairlead', 'plain')),
    mixedBack: stack.use(await Wire.open(program, 'plain', 'fairlead')),
  };
  const { plain, fairlead, mixed, mixedBack } = await interleave(rounds, {
    plain: async () => [await sides.plain.timeMs(durationMs)],
    fairlead: async () => [await sides.fairlead.timeMs(durationMs)],
    mixed: async () => [await sides.mixed.timeMs(durationMs)],
    mixedBack: async () => [await sides.mixedBack.timeMs(durationMs)],
  });
  frame.samples('1 GB, one packet a system call', plain);
  frame.samples('1 GB, udp backend', fairlead);
  frame.samples('1 GB, udp backend to plain loop', mixed);
  frame.samples('1 GB, plain loop to udp backend', mixedBack);
  frame.ratio('plain loop / udp backend', plain, fairlead, frame.quick ? {} : { target: { atLeast: 3 } });
}

function build(directory: string): string | undefined {
  const program = join(directory, 'plain');
  try {
    const source = fileURLToPath(new URL('./tunnel/plain.c', import.meta.url));
    execFileSync('cc', ['-O2', '-o', program, source], { stdio: ['ignore', 'ignore', 'pipe'] });
    return program;
  } catch {
    return undefined;
  }
}

type Kind = 'plain' | 'fairlead';

/** Two namespaces with a tunnel between them, each end of its kind. */
class Wire implements AsyncDisposable {
  readonly #program: string;
  readonly #names: readonly [string, string];
  readonly #stack = new AsyncDisposableStack();

  private constructor(program: string) {
    const id = randomBytes(3).toString('hex');
    this.#program = program;
    this.#names = [`fl-bench-${id}-l`, `fl-bench-${id}-r`];
  }

  static async open(program: string, ...kinds: readonly [Kind, Kind]): Promise<Wire> {
    const wire = new Wire(program);
    try {
      await wire.#lay();
      for (const at of [0, 1] as const) await (kinds[at] === 'plain' ? wire.#loop(at) : wire.#pump(at));
      await wire.#start(1, 'sink', '10.99.0.2', '5001');
      return wire;
    } catch (error) {
      await wire[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #lay(): Promise<void> {
    for (const name of this.#names) {
      createNamespace(`/run/netns/${name}`);
      this.#stack.defer(() => deleteNamespace(`/run/netns/${name}`));
    }
    const [left, right] = this.#names;
    await applyBatch({
      namespace: left,
      lines: [
        `link add wire type veth peer name wire netns ${right}`,
        'link set wire up',
        'address add 192.0.2.1/24 dev wire',
      ],
    });
    await applyBatch({
      namespace: right,
      lines: ['link set wire up', 'address add 192.0.2.2/24 dev wire', 'link set lo up'],
    });
  }

  #addressing(at: 0 | 1): string[] {
    return [
      `address add 10.99.0.${at + 1}/32 dev ${device}`,
      `link set ${device} mtu 1472 up`,
      `route add 10.99.0.${2 - at}/32 dev ${device}`,
    ];
  }

  async #loop(at: 0 | 1): Promise<void> {
    const namespace = this.#names[at];
    await applyBatch({ namespace, lines: [`tuntap add dev ${device} mode tun`, ...this.#addressing(at)] });
    await this.#start(at, 'loop', device, `192.0.2.${at + 1}`, `192.0.2.${2 - at}`, `${PORT}`);
  }

  async #pump(at: 0 | 1): Promise<void> {
    const name = this.#names[at];
    const namespace = this.#stack.use(openNamespace(`/run/netns/${name}`));
    const socket = this.#stack.use(NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: namespace.fd }));
    const link: LinkRow = { name: device, kind: 'tun', alias: 'fairlead bench', up: true };
    const links = new LinkTable({ socket, namespaceFd: namespace.fd });
    await reconcile([layer(links, new Map([[linkKey(link), link]]))]);
    await applyBatch({ namespace: name, lines: this.#addressing(at) });
    const tunnel = this.#stack.use(new TunnelTable({ namespaceFd: namespace.fd }));
    const row: TunnelRow = {
      destination: `10.99.0.${2 - at}/32` as Cidr,
      endpoint: `192.0.2.${2 - at}` as Ip,
      port: PORT,
    };
    const ends = { device, locals: [`192.0.2.${at + 1}` as Ip], port: PORT };
    const { failures } = await reconcile([layer(tunnel.between(ends), new Map([[tunnelKey(row), row]]))]);
    for (const { error } of failures) throw error;
  }

  async #start(at: 0 | 1, ...words: string[]): Promise<void> {
    const [command, args] = inNamespace(this.#names[at], [this.#program, ...words]);
    const child: ChildProcess = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#stack.defer(async () => {
      const gone = once(child, 'exit');
      if (child.kill('SIGKILL')) await gone;
    });
    if (child.stdout !== null) await once(child.stdout, 'data');
  }

  /** How long so many bytes take: what one connection brings across in the duration, scaled up. */
  async timeMs(durationMs: number): Promise<number> {
    const words = [this.#program, 'source', '10.99.0.2', '5001', String(durationMs)];
    const [command, args] = inNamespace(this.#names[0], words);
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let said = '';
    child.stdout.on('data', (part: Buffer) => {
      said += part;
    });
    await once(child, 'close');
    return (1000 * SAMPLE_BYTES) / Number(said);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}
