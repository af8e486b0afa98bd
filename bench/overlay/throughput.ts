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
/** Of one sample. */
const seconds = 1;
const ratioTarget: Target = { atLeast: 0.98 };
/** What goes over the wire in the time of one sample is told as the time for so much. */
const SAMPLE_BYTES = 1e9;

/**
 * TCP from pod to pod over our ways, and over the same ways of the kernel's made with `ip`. These have no connection
 * tracking, which masquerading needs: so there is a side of ours without it, which is the same path.
 */
export async function measureThroughput(frame: Frame): Promise<void> {
  if (!existsSync(program)) return frame.missing('iperf3', `no ${program} (Debian: iperf3)`);
  const rounds = frame.quick ? 1 : 15;
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
  if (rounds > 1) for (const each of [path, masquerade, hand]) await each.timeMs(seconds);
  return await interleave(rounds, {
    path: async () => [await path.timeMs(seconds)],
    masquerade: async () => [await masquerade.timeMs(seconds)],
    hand: async () => [await hand.timeMs(seconds)],
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

  /** How long so many bytes take: what one connection brings across in the time, scaled up. */
  async timeMs(seconds: number): Promise<number> {
    const [from, to] = this.#pair.pods;
    const words = [program, '--client', to.address, '--time', String(seconds), '--json'];
    const [command, args] = inNamespace(from.namespace, words);
    for (let tries = 1; ; tries += 1) {
      try {
        const { stdout } = await promisify(execFile)(command, args);
        const { end } = JSON.parse(stdout) as { end: { sum_received: { bits_per_second: number } } };
        return (1000 * SAMPLE_BYTES * 8) / end.sum_received.bits_per_second;
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
