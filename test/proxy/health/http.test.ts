import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import type { Ip } from '../../../core/address.ts';
import { HttpService, listenHttp, routesOf, textAnswer } from '../../../proxy/health/http.ts';
import { ask, outcomeOf } from './ask.ts';

const host = '127.0.0.1' as Ip;
const log = pino({ level: 'silent' });
const handler = routesOf({
  '/': () => textAnswer('here'),
  '/broken': () => {
    throw new Error('no');
  },
});

async function listen(t: ExecutionContext, port = 0) {
  const server = await listenHttp({ host, port }, handler);
  t.teardown(() => server[Symbol.asyncDispose]());
  return server;
}

/** A service whose failures are in `fatal`. */
function serve(t: ExecutionContext, port: number, isFatal: boolean) {
  const fatal: string[] = [];
  const onFatal = ({ message }: Error) => fatal.push(message);
  const at = { host, port };
  const service = new HttpService({ name: 'healthz', at, handler, isFatal, onFatal, log, retryMs: 20 });
  t.teardown(() => service[Symbol.asyncDispose]());
  return { service, fatal };
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries += 1) {
    if (tries > 6_000) throw new Error('it did not come to pass');
    await sleep(10);
  }
}

test('answers have their type and length, are not to be guessed at, and are found by path alone', async (t) => {
  const { port } = await listen(t);
  const { status, headers, body } = await ask(port, '/?verbose=1#x');
  t.is(status, 200);
  t.is(body, 'here');
  t.is(headers['content-type'], 'text/plain; charset=utf-8');
  t.is(headers['x-content-type-options'], 'nosniff');
  t.is(headers['content-length'], '4');
  t.is((await ask(port, '/toString')).status, 404);
  t.is((await ask(port, '/broken')).status, 500);
  t.is((await ask(port, '/', { method: 'HEAD' })).body, '');
});

test('a port in use is tried again until it is free', async (t) => {
  const other = await listen(t);
  const { service, fatal } = serve(t, other.port, false);
  await sleep(60);
  t.is(service.port, undefined);
  await other[Symbol.asyncDispose]();
  await until(() => service.port !== undefined);
  t.is(await outcomeOf(other.port), 200);
  t.deepEqual(fatal, []);
  await service[Symbol.asyncDispose]();
  t.is(await outcomeOf(other.port), 'ECONNREFUSED');
});

test('a port in use is the end where that is wanted', async (t) => {
  const { port } = await listen(t);
  const { fatal } = serve(t, port, true);
  await until(() => fatal.length > 0);
  t.regex(fatal[0] ?? '', new RegExp(`^healthz: cannot listen on 127.0.0.1:${port}: .*EADDRINUSE`));
});

test('a server that waits for its port can be ended', async (t) => {
  const { port } = await listen(t);
  const { service } = serve(t, port, false);
  await service[Symbol.asyncDispose]();
  t.is(service.port, undefined);
});
