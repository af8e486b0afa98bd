import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { type Frame, interleave, type Target } from '../frame.ts';
import { agentsPair, handMadePair, type Pair } from './pair.ts';
import type { Backend } from './peers.ts';

const program = '/usr/bin/iperf3';
/**
 * Of one sample: a fraction of a second on any machine. What else the machine does comes and goes in seconds, so many
 * short samples in turns say more than a few long ones in the same time.
 */
const sampleBytes = 300e6;
const roundsWhole = 50;
const ratioTarget: Target = { atLeast: 0.98 };
/** What goes over the wire in the time of one sample is told as the time for so much. */
const toldBytes = 1e9;

/**
 * TCP from pod to pod over our ways, and over the same ways of the kernel's made with `ip`. These have no connection
 * tracking, which masquerading needs: so there is a side of ours without it, which is the same path.
 */
export async function measureThroughput(frame: Frame): Promise<void> {
  if (!existsSync(program)) return frame.missing('iperf3', `no ${program} (Debian: iperf3)`);
  const rounds = frame.quick ? 1 : roundsWhole;
  for (const backend of ['vxlan', 'host-gw'] as const) {
    frame.progress(`throughput, ${backend}`);
    const { path, masquerade, hand } = await measureBackend(backend, rounds);
    frame.samples(`1 GB over ${backend}: made with ip`, hand);
    frame.samples(`1 GB over ${backend}: fairlead --no-masquerade`, path);
    frame.samples(`1 GB over ${backend}: fairlead`, masquerade);
    const target = frame.quick ? {} : { target: ratioTarget };
    frame.ratio(`${backend}: made with ip / fairlead --no-masquerade`, hand, path, target);
    frame.ratio(`${backend}: made with ip / fairlead`, hand, masquerade);
  }
}

async function measureBackend(backend: Backend, rounds: number) {
  await using stack = new AsyncDisposableStack();
  const wire = async (pair: Pair & AsyncDisposable) => stack.use(new Wire(stack.use(pair)));
  const path = await wire(await agentsPair(backend, ['--no-masquerade']));
  const masquerade = await wire(await agentsPair(backend));
  const hand = await wire(await handMadePair(backend));
  if (rounds > 1) for (const each of [path, masquerade, hand]) await each.timeMs();
  return await interleave(rounds, {
    path: async () => [await path.timeMs()],
    masquerade: async () => [await masquerade.timeMs()],
    hand: async () => [await hand.timeMs()],
  });
}

/** A pair with a server in its second pod. */
class Wire implements AsyncDisposable {
  readonly #pair: Pair;
  readonly #stop: () => Promise<void>;

  constructor(pair: Pair) {
    this.#pair = pair;
    const [, { namespace, address }] = pair.pods;
    const [command, args] = inNamespace(namespace, [program, '--server', '--bind', address]);
    const server = spawn(command, args, { stdio: 'ignore' });
    this.#stop = async () => {
      const gone = once(server, 'exit');
      if (server.kill('SIGKILL')) await gone;
    };
  }

  /** How long `toldBytes` take at the pace of one connection with a sample's bytes. */
  async timeMs(): Promise<number> {
    const [from, to] = this.#pair.pods;
    const words = [program, '--client', to.address, '--bytes', String(sampleBytes), '--json'];
    const [command, args] = inNamespace(from.namespace, words);
    for (let tries = 1; ; tries += 1) {
      try {
        const { stdout } = await promisify(execFile)(command, args);
        const { end } = JSON.parse(stdout) as { end: { sum_received: { bits_per_second: number } } };
        return (1000 * toldBytes * 8) / end.sum_received.bits_per_second;
      } catch (error) {
        if (tries === 20) throw error; // the server begins to listen some time after its start
        await sleep(100);
      }
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stop();
  }
}
