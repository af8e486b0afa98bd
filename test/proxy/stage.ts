import { setTimeout as sleep } from 'node:timers/promises';
import type { ExecutionContext } from 'ava';
import { pino } from 'pino';
import { type ProxyOptions, startProxy } from '../../proxy/proxy.ts';
import { FakeApi } from './fake-api.ts';
import { RecordingBackend } from './recording-backend.ts';

/** A proxy between an API and a backend that only write down what they are asked. */
export function setUp(t: ExecutionContext) {
  const api = new FakeApi();
  const backend = new RecordingBackend();
  const lines: string[] = [];
  const log = pino({ level: 'info' }, { write: (line) => lines.push(line) });
  const start = (options: Partial<ProxyOptions> = {}) => {
    const proxy = startProxy({
      client: api,
      nodeName: 'here',
      nodeAddresses: [],
      clusterCidrs: [],
      log,
      backend,
      ...options,
    });
    t.teardown(() => proxy[Symbol.asyncDispose]());
    return proxy;
  };
  const called = async (count: number) => {
    const deadline = performance.now() + 60_000;
    while (backend.calls.length < count && performance.now() < deadline) await sleep(5);
    return backend.calls;
  };
  return { api, backend, lines, start, called };
}

export async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('waited in vain');
    await sleep(5);
  }
}
