import { monitorEventLoopDelay } from 'node:perf_hooks';
import { startCniServer } from '../../cni/server.ts';
import { killAfterSteps } from './kill-steps.ts';
import { loopMessage, type ServerProcessOptions } from './node.ts';

// A server of the CNI plugin in a process of its own: it says "ready", serves, and ends orderly on SIGTERM.
const loopResolutionMs = 1;
const options: ServerProcessOptions = JSON.parse(process.argv[2] ?? '{}');
const write = (level: string) => (fields: object, message: string) =>
  process.stderr.write(`${JSON.stringify({ level, message, ...fields })}\n`);
let passed = 0;
if (options.killAfter?.from === 'start') killAfterSteps(options.killAfter.steps);
const server = await startCniServer({
  socketPath: options.socketPath,
  stateDir: options.stateDir,
  network: () => options.network,
  abandonedTimes: options.abandonedTimes,
  hostTimes: options.hostTimes,
  log: { info: write('info'), warn: write('warn'), error: write('error') },
  onFaultPoint: (point) => {
    if (point !== options.killAt?.point) return;
    passed += 1;
    if (passed === options.killAt.times) process.kill(process.pid, 'SIGKILL');
  },
});
if (options.measuresLoop) {
  const turns = monitorEventLoopDelay({ resolution: loopResolutionMs });
  turns.enable();
  process.on('SIGUSR2', () => {
    write('info')({ longestMs: Math.max(0, turns.max / 1e6 - loopResolutionMs) }, loopMessage);
    turns.reset();
  });
}
if (options.killAfter?.from === 'ready') killAfterSteps(options.killAfter.steps);
process.stdout.write('ready\n');
process.once('SIGTERM', async () => {
  await server[Symbol.asyncDispose]();
  process.stdout.write('ended\n');
});
