import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { CniError } from '../../cni/error.ts';
import { frameMagic } from '../../cni/frame.ts';
import type { Call } from '../../cni/plugin.ts';
import { DeletionQueue, refusedMax } from '../../cni/queue.ts';
import { renderError } from '../../cni/result.ts';

interface Lines {
  info: string[];
  warn: string[];
  error: string[];
}

/** A directory with entries, and a plugin that notes what it is called with. */
class Setting {
  readonly directory = mkdtempSync(join(tmpdir(), 'fairlead-queue-'));
  readonly calls: string[] = [];
  readonly log: Lines = { info: [], warn: [], error: [] };
  /** What a DEL of a container is answered with. */
  readonly errors = new Map<string, CniError>();
  /** Told to wait, DELs do. */
  gate: Promise<void> | undefined;

  constructor(t: ExecutionContext) {
    t.teardown(() => rmSync(this.directory, { recursive: true, force: true }));
  }

  put(containerId: string, options: { env?: string; atMs?: number } = {}): void {
    const env = `CNI_COMMAND=DEL\0CNI_CONTAINERID=${containerId}\0${options.env ?? ''}`;
    this.putBytes(`${containerId}.eth0.0`, frame(env, '{}'), options.atMs);
  }

  putBytes(name: string, bytes: Uint8Array, atMs = Date.now()): void {
    const path = join(this.directory, name);
    writeFileSync(path, bytes);
    utimesSync(path, atMs / 1000, atMs / 1000);
  }

  open(): Promise<DeletionQueue> {
    const note = (lines: string[]) => (fields: object, message: string) => {
      lines.push(`${message} ${JSON.stringify(fields)}`);
    };
    const log = { info: note(this.log.info), warn: note(this.log.warn), error: note(this.log.error) };
    return DeletionQueue.open({ directory: this.directory, serve: (call) => this.#serve(call), log });
  }

  async #serve(call: Call): Promise<void> {
    const id = call.env.get('CNI_CONTAINERID') ?? '';
    this.calls.push(`${call.env.get('CNI_COMMAND')} ${id}`);
    if (id === 'throws') throw new Error('unexpected');
    await this.gate;
    const error = this.errors.get(id);
    if (error === undefined) call.answer(0, '');
    else call.answer(1, renderError(error, '1.1.0'));
  }

  get entries(): string[] {
    return readdirSync(this.directory).filter((name) => name !== 'refused');
  }

  get refused(): string[] {
    return readdirSync(join(this.directory, 'refused'));
  }
}

function frame(env: string, stdin: string): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt32LE(frameMagic, 0);
  header.writeUInt32LE(Buffer.byteLength(env), 4);
  header.writeUInt32LE(Buffer.byteLength(stdin), 8);
  return Buffer.concat([header, Buffer.from(env), Buffer.from(stdin)]);
}

test('what is queued is done at the start, and the queue is empty', async (t) => {
  const setting = new Setting(t);
  setting.put('third', { atMs: 3000 });
  setting.put('first', { atMs: 1000 });
  setting.put('second', { atMs: 2000 });
  await using _queue = await setting.open();
  // Several at a time: they are begun in the order of their age, but end as they like.
  t.deepEqual(setting.calls.toSorted(), ['DEL first', 'DEL second', 'DEL third']);
  t.deepEqual(setting.entries, []);
  t.deepEqual(setting.log, {
    info: ['DELs done that were queued while no daemon answered {"done":3}'],
    warn: [],
    error: [],
  });
});

test('without a directory the queue is empty, and the directory is made', async (t) => {
  const setting = new Setting(t);
  rmSync(setting.directory, { recursive: true });
  await using queue = await setting.open();
  t.deepEqual(setting.entries, []);
  t.is(queue.settle('pod'), undefined);
  rmSync(setting.directory, { recursive: true });
  t.is(queue.settle('pod'), undefined);
});

test('an ADD waits for what was queued before it, of any container', async (t) => {
  const setting = new Setting(t);
  await using queue = await setting.open();
  t.is(queue.settle('pod'), undefined);
  setting.put('other');
  let open = () => {};
  setting.gate = new Promise((resolve) => {
    open = resolve;
  });
  const settled = queue.settle('pod');
  t.not(settled, undefined);
  while (setting.calls.length === 0) await new Promise(setImmediate);
  // Queued while a pass is running: the next ADD waits for it too.
  setting.put('pod');
  const later = queue.settle('pod');
  open();
  t.is(await settled, undefined);
  t.is(await later, undefined);
  t.deepEqual(setting.calls, ['DEL other', 'DEL pod']);
  t.is(queue.settle('pod'), undefined);
});

test('no entry is overlooked, however soon after the last look it comes', async (t) => {
  const setting = new Setting(t);
  await using queue = await setting.open();
  for (let round = 0; round < 50; round += 1) {
    // Without a time of its own: that of the directory is what counts.
    writeFileSync(
      join(setting.directory, `c${round}.eth0.0`),
      frame(`CNI_COMMAND=DEL\0CNI_CONTAINERID=c${round}\0`, '{}'),
    );
    t.not(queue.settle('other'), undefined);
    await queue.settle('other');
    t.is(queue.settle('other'), undefined);
    if (round % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 120));
    t.is(queue.settle('other'), undefined);
  }
  t.is(setting.calls.length, 50);
});

test('a DEL that fails stays, is tried again, and holds up the ADD of its own container only', async (t) => {
  const setting = new Setting(t);
  setting.errors.set('pod', new CniError(5, 'failed to detach', 'EBUSY'));
  setting.put('pod');
  setting.put('throws');
  setting.put('good');
  await using queue = await setting.open();
  t.deepEqual(setting.entries, ['pod.eth0.0', 'throws.eth0.0']);
  t.regex(setting.log.warn.join(), /pod\.eth0\.0","error":"failed to detach: EBUSY/);
  t.is(queue.settle('other'), undefined);
  const error = await queue.settle('pod');
  t.like(error, { code: 11, details: 'failed to detach: EBUSY' });
  setting.errors.clear();
  t.is(await queue.settle('pod'), undefined);
  t.deepEqual(setting.entries, ['throws.eth0.0']);
});

for (const code of [1, 4, 6, 7]) {
  test(`a request that is refused with code ${code} is set aside`, async (t) => {
    const setting = new Setting(t);
    setting.errors.set('pod', new CniError(code, 'not this'));
    setting.put('pod');
    await using queue = await setting.open();
    t.deepEqual(setting.entries, []);
    t.deepEqual(setting.refused, ['pod.eth0.0']);
    t.regex(setting.log.error.join(), /set aside .*refused\/pod\.eth0\.0","problem":"not this"/);
    t.is(queue.settle('pod'), undefined);
  });
}

test('what is no request of a DEL is set aside and said, and the others are done', async (t) => {
  const setting = new Setting(t);
  const good = frame('CNI_COMMAND=DEL\0CNI_CONTAINERID=x\0', '{}');
  setting.putBytes('empty', Buffer.alloc(0));
  setting.putBytes('short', good.subarray(0, good.length - 1));
  setting.putBytes('long', Buffer.concat([good, Buffer.from('x')]));
  setting.putBytes('noise', Buffer.alloc(100, 7));
  setting.putBytes('huge', Buffer.alloc(12 + (256 << 10) + (1 << 20) + 1));
  setting.putBytes('add', frame('CNI_COMMAND=ADD\0', '{}'));
  mkdirSync(join(setting.directory, 'directory'));
  setting.put('good');
  await using _queue = await setting.open();
  t.deepEqual(setting.calls, ['DEL good']);
  t.deepEqual(setting.entries, []);
  t.deepEqual(setting.refused, ['add', 'directory', 'empty', 'huge', 'long', 'noise', 'short']);
  t.is(setting.log.error.length, 7);
});

test('any bytes are done or set aside', async (t) => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 60 }),
    fc.uint8Array({ maxLength: 60 }).map((env) => frame(Buffer.from(env).toString('latin1'), '{}')),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(bytes, { maxLength: 5 }), async (files) => {
      const setting = new Setting(t);
      files.forEach((file, index) => {
        setting.putBytes(`f${index}`, file);
      });
      await using _queue = await setting.open();
      t.deepEqual(setting.entries, []);
    }),
    { numRuns: 50 },
  );
});

test('of what was set aside the newest hundred stay', async (t) => {
  const setting = new Setting(t);
  for (let i = 0; i < refusedMax + 20; i += 1) setting.putBytes(`bad-${i}`, Buffer.alloc(0), 1000 + i * 1000);
  await using _queue = await setting.open();
  t.is(setting.refused.length, refusedMax);
  t.deepEqual(setting.entries, []);
});

test('a file that a shim is writing is left alone, one that a dead shim left goes', async (t) => {
  const setting = new Setting(t);
  setting.putBytes('.1.new', Buffer.alloc(1));
  setting.putBytes('.2.new', Buffer.alloc(1), Date.now() - 120_000);
  await using _queue = await setting.open();
  t.deepEqual(setting.entries, ['.1.new']);
});

test('closing waits for what is being done and leaves the rest queued', async (t) => {
  const setting = new Setting(t);
  const queue = await setting.open();
  for (let i = 0; i < 50; i += 1) setting.put(`pod-${i}`);
  let open = () => {};
  setting.gate = new Promise((resolve) => {
    open = resolve;
  });
  const settled = queue.settle('pod');
  while (setting.calls.length < 16) await new Promise((resolve) => setImmediate(resolve));
  const closed = queue[Symbol.asyncDispose]();
  open();
  await Promise.all([closed, settled]);
  t.is(setting.calls.length, 16);
  t.is(setting.entries.length, 34);
});
