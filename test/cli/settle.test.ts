import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { settle } from '../../cli/settle.ts';

const module = fileURLToPath(new URL('../../cli/settle.ts', import.meta.url));
const run = promisify(execFile);

/** A process that has used 80 MB in small pieces, one of which is kept above all others. */
const program = `
  const { settle } = await import(${JSON.stringify(module)});
  const alive = setInterval(() => {}, 1000); // as an agent is by its sockets
  const used = Array.from({ length: 40_000 }, (_, n) => [String(n).repeat(100), new Uint8Array(1000)]);
  const [, kept] = used.pop();
  used.length = 0;
  const { rss: before } = process.memoryUsage();
  await settle({ ready: Promise.resolve(), signal: new AbortController().signal, log: console });
  console.log(JSON.stringify({ before, after: process.memoryUsage().rss, kept: kept.length }));
  clearInterval(alive);`;

test('a start that is over gives back what it used', async (t) => {
  const { stdout } = await run(process.execPath, ['--expose-gc', '--input-type=module', '--eval', program]);
  const { before, after } = JSON.parse(stdout);
  t.true(after < before - 30e6, `${before / 1e6} MB before, ${after / 1e6} MB after`);
});

test.serial('an agent that is stopped while it starts collects nothing', async (t) => {
  const collect = globalThis.gc;
  let collections = 0;
  globalThis.gc = (async () => {
    collections += 1;
  }) as unknown as NodeJS.GCFunction;
  t.teardown(() => {
    globalThis.gc = collect;
  });
  const stop = AbortSignal.abort();
  await settle({
    ready: Promise.reject(new Error('stopped before it was ready')),
    signal: stop,
    log: failing,
  });
  await settle({ ready: Promise.resolve(), signal: stop, log: failing });
  t.is(collections, 0);
});

test.serial('what cannot be given back ends nothing, and is told', async (t) => {
  const collect = globalThis.gc;
  globalThis.gc = (() => Promise.reject(new Error('no'))) as unknown as NodeJS.GCFunction;
  t.teardown(() => {
    globalThis.gc = collect;
  });
  const told: object[] = [];
  const { signal } = new AbortController();
  const alive = setInterval(() => {}, 1000);
  await settle({ ready: Promise.resolve(), signal, log: { warn: (what) => told.push(what) } });
  clearInterval(alive);
  t.deepEqual(told, [{ error: 'no' }]);
});

const failing = {
  warn: () => {
    throw new Error('nothing to be told');
  },
};
