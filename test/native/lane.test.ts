import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { native } from '../../native/index.ts';
import { addBridge, dumpLinks, getLink, NETLINK_ROUTE, parseErrors, parseLinkNames } from './netlink.ts';
import { openDescriptors, routeSocket, runScript, temporaryNamespace, threadNamespaces } from './setting.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const protocol = NETLINK_ROUTE;
const { EEXIST, ENODEV } = constants.errno;

test.serial('a step without a descriptor runs inside its namespace', async (t) => {
  using namespace = temporaryNamespace();
  using outside = routeSocket();
  const lane = native.lane();
  const answers = await native.run(lane, [
    { namespaceFd: namespace.fd, protocol, data: Buffer.concat([addBridge('x1'), addBridge('x2')]) },
    { namespaceFd: namespace.fd, protocol, data: dumpLinks() },
    { fd: outside.fd, data: dumpLinks() },
  ]);
  t.deepEqual(parseErrors(answers[0] ?? Buffer.alloc(0)), [0, 0]);
  const inside = parseLinkNames(answers[1] ?? Buffer.alloc(0));
  t.true(inside.includes('x1') && inside.includes('x2'));
  t.false(parseLinkNames(answers[2] ?? Buffer.alloc(0)).includes('x1'));
  t.is(threadNamespaces().size, 1);
  lane.close();
});

test.serial('steps after a refused one do not run', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  const lane = native.lane();
  const answers = await native.run(lane, [
    { fd: socket.fd, data: addBridge('first') },
    { fd: socket.fd, data: Buffer.concat([addBridge('second'), addBridge('first'), addBridge('third')]) },
    { fd: socket.fd, data: addBridge('never') },
  ]);
  t.deepEqual(answers.map(parseErrors), [[0], [0, EEXIST, 0]]);
  t.false(parseLinkNames(native.exchange(socket.fd, dumpLinks())).includes('never'));
  lane.close();
});

test.serial('a job in two parts answers as one', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  const lane = native.lane();
  const step = (data: Uint8Array) => ({ fd: socket.fd, data });
  const begun = native.begin(lane, [step(addBridge('first'))]);
  const answers = await native.run(lane, [step(addBridge('second'))], undefined, begun);
  t.deepEqual(answers.map(parseErrors), [[0], [0]]);
  t.deepEqual(await native.run(lane, [], undefined, native.begin(lane, [])), []);
  lane.close();
});

test.serial('the second part of a job does not run where the first was refused or failed', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  const lane = native.lane();
  const step = (name: string) => ({ fd: socket.fd, data: addBridge(name) });
  await native.run(lane, [step('first')]);
  const refused = native.begin(lane, [step('first'), step('later')]);
  const answers = await native.run(lane, [step('never')], undefined, refused);
  t.deepEqual(answers.map(parseErrors), [[EEXIST]]);
  const failed = native.begin(lane, [{ fd: 1 << 20, data: addBridge('x') }]);
  await t.throwsAsync(native.run(lane, [step('never')], undefined, failed), { code: 'EBADF' });
  const names = parseLinkNames(native.exchange(socket.fd, dumpLinks()));
  t.false(names.includes('never') || names.includes('later'));
  lane.close();
});

test.serial('what was begun belongs to its lane, and need not be gone on with', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  const [lane, other] = [native.lane(), native.lane()];
  const begun = native.begin(lane, [{ fd: socket.fd, data: addBridge('alone') }]);
  const message = 'begun must be what was begun on this lane';
  t.throws(() => native.run(other, [], undefined, begun), { instanceOf: TypeError, message });
  t.throws(() => native.run(lane, [], undefined, {} as never), { instanceOf: TypeError, message });
  await native.run(lane, [{ fd: socket.fd, data: dumpLinks() }]);
  t.true(parseLinkNames(native.exchange(socket.fd, dumpLinks())).includes('alone'));
  lane.close();
  other.close();
  t.throws(() => native.begin(lane, []), { code: 'ECANCELED' });
});

test.serial('a lane that clients wake runs jobs, and sleeps again where they bring none', async (t) => {
  using socket = routeSocket();
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-native-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const listener = native.openSocket(-1, AF_UNIX, SOCK_STREAM, 0, 0);
  const path = join(directory, 'socket');
  native.bind(listener, Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]), 64);
  const lane = native.lane();
  native.attend(lane, listener);
  const client = () => connect(path).on('error', () => {});
  const clients = [];
  for (let round = 0; round < 50; round += 1) {
    clients.push(client());
    if (round % 3 === 0) await sleep(round % 2);
    const [answer] = await native.run(lane, [{ fd: socket.fd, data: dumpLinks() }]);
    t.true((answer?.length ?? 0) > 0);
  }
  clients.push(client());
  await sleep(20);
  // Nobody accepts, and the lane sleeps nevertheless; what else this process does is over at some time.
  let isAsleep = false;
  for (let tries = 0; tries < 50 && !isAsleep; tries += 1) {
    const before = process.cpuUsage();
    await sleep(100);
    isAsleep = process.cpuUsage(before).user < 50_000;
  }
  t.true(isAsleep);
  native.close(listener);
  const [answer] = await native.run(lane, [{ fd: socket.fd, data: dumpLinks() }]);
  t.true((answer?.length ?? 0) > 0);
  for (const one of clients) one.destroy();
  lane.close();
});

test.serial('64 jobs at once each get their own answer, in order', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  const lane = native.lane();
  const ended: number[] = [];
  const jobs = Array.from({ length: 64 }, async (_, i) => {
    const answers = await native.run(lane, [
      { fd: socket.fd, data: addBridge(`d${i}`) },
      { namespaceFd: namespace.fd, protocol, data: getLink(9000 + i) },
    ]);
    ended.push(i);
    return answers.map(parseErrors);
  });
  t.deepEqual(
    await Promise.all(jobs),
    Array.from({ length: 64 }, () => [[0], [ENODEV]]),
  );
  t.deepEqual(
    ended,
    Array.from({ length: 64 }, (_, i) => i),
  );
  const names = parseLinkNames(native.exchange(socket.fd, dumpLinks()));
  t.is(names.filter((name) => /^d\d+$/.test(name)).length, 64);
  lane.close();
});

test.serial('a job keeps its own copy of the bytes', async (t) => {
  using socket = routeSocket();
  const lane = native.lane();
  const data = getLink(1);
  const jobs = Array.from({ length: 20 }, () => native.run(lane, [{ fd: socket.fd, data }]));
  data.fill(0xff);
  for (const [answer] of await Promise.all(jobs)) t.deepEqual(parseErrors(answer ?? Buffer.alloc(0)), [0]);
  lane.close();
});

test.serial('a failed system call rejects, and the lane goes on', async (t) => {
  using socket = routeSocket();
  const lane = native.lane();
  const data = getLink(1);
  await t.throwsAsync(native.run(lane, [{ fd: 99_999, data }]), { code: 'EBADF', message: /sendmsg/ });
  await t.throwsAsync(native.run(lane, [{ namespaceFd: 0, protocol, data }]), { message: /setns/ });
  await t.throwsAsync(native.run(lane, [{ namespaceFd: -1, protocol: 200, data }]), {
    code: 'EPROTONOSUPPORT',
  });
  t.is((await native.run(lane, [{ fd: socket.fd, data }])).length, 1);
  t.deepEqual(await native.run(lane, []), []);
  lane.close();
});

test.serial('a closed lane finishes its queue and takes nothing new', async (t) => {
  using socket = routeSocket();
  const lane = native.lane();
  const data = getLink(1);
  const jobs = Array.from({ length: 10 }, () => native.run(lane, [{ fd: socket.fd, data }]));
  lane.close();
  lane.close();
  await t.throwsAsync(native.run(lane, [{ fd: socket.fd, data }]), { code: 'ECANCELED' });
  t.is((await Promise.all(jobs)).length, 10);
});

test.serial('hundreds of jobs and lanes leave no descriptor and no thread', async (t) => {
  using namespace = temporaryNamespace();
  const data = getLink(1);
  const round = async (): Promise<void> => {
    const lane = native.lane();
    for (let i = 0; i < 10; i++) {
      await native.run(lane, [{ namespaceFd: namespace.fd, protocol, data }]);
      await t.throwsAsync(native.run(lane, [{ namespaceFd: namespace.fd, protocol: 200, data }]));
      await t.throwsAsync(native.run(lane, [{ fd: 99_999, data }]));
    }
    lane.close();
  };
  await round();
  t.is(await laneThreads(), 0);
  const before = openDescriptors();
  for (let i = 0; i < 30; i++) await round();
  t.is(await laneThreads(), 0);
  // Those of a lane are closed a moment after its thread has ended: earlier tests' may still have been there.
  const more = () => openDescriptors().filter((one) => !before.includes(one));
  for (let tries = 0; tries < 3000 && more().length > 0; tries += 1) await sleep(10);
  t.deepEqual(more(), []);
});

/** Lane threads that are there after the closed ones had time to end. */
async function laneThreads(): Promise<number> {
  const count = () => readdirSync('/proc/self/task').filter(isLane).length;
  for (let tries = 0; tries < 3000 && count() > 0; tries += 1) await sleep(10);
  return count();
}

function isLane(task: string): boolean {
  try {
    return readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim() === 'fairlead-lane';
  } catch {
    return false; // it ended meanwhile
  }
}

const openRoute = `
const { getLink } = await import(${JSON.stringify(fileURLToPath(new URL('./netlink.ts', import.meta.url)))});
const lane = native.lane();
const fd = native.openSocket(-1, 16, 3, 0, 0);
const data = getLink(1);
`;

test('a process with an idle lane ends by itself', async (t) => {
  const script = `${openRoute}await native.run(lane, [{ fd, data }]); console.log('done');`;
  const { code, stdout, elapsedMs } = await runScript(script);
  t.deepEqual([code, stdout], [0, 'done\n']);
  t.true(elapsedMs < 60_000);
});

test('a process stays for the jobs in flight', async (t) => {
  const script = `${openRoute}for (let i = 0; i < 100; i++) native.run(lane, [{ fd, data }]).then(() => i === 99 && console.log('last'));`;
  const { code, stdout } = await runScript(script);
  t.deepEqual([code, stdout], [0, 'last\n']);
});

test('process.exit with a busy lane ends at once', async (t) => {
  const script = `${openRoute}for (let i = 0; i < 5000; i++) native.run(lane, [{ fd, data }]); process.exit(7);`;
  const { code, signal, stderr } = await runScript(script);
  t.deepEqual([code, signal, stderr], [7, null, '']);
});

test('an uncaught error with a busy lane ends at once', async (t) => {
  const script = `${openRoute}for (let i = 0; i < 5000; i++) native.run(lane, [{ fd, data }]); throw new Error('stop');`;
  const { code, signal } = await runScript(script);
  t.deepEqual([code, signal], [1, null]);
});

test('lanes that nobody holds any more end', async (t) => {
  const { code, stdout } = await runScript(`
    const { readdirSync } = await import('node:fs');
    const { setTimeout } = await import('node:timers/promises');
    const { setFlagsFromString } = await import('node:v8');
    const { runInNewContext } = await import('node:vm');
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc');
    const before = readdirSync('/proc/self/task').length;
    (() => { for (let i = 0; i < 50; i++) native.lane(); })();
    const during = readdirSync('/proc/self/task').length;
    for (let i = 0; i < 3000 && readdirSync('/proc/self/task').length > before; i++) { await setTimeout(10); collect(); }
    console.log(during - before, readdirSync('/proc/self/task').length - before);
  `);
  t.deepEqual([code, stdout], [0, '50 0\n']);
});

test.serial('a worker that is terminated with busy lanes and polls takes them along', async (t) => {
  const before = openDescriptors();
  for (let i = 0; i < 10; i++) {
    const worker = new Worker(new URL('./worker.ts', import.meta.url));
    await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    await worker.terminate();
  }
  t.is(await laneThreads(), 0);
  const left = before.length + 10; // the socket that each worker left open
  // As above: a lane's own are closed a moment after its thread has ended.
  for (let tries = 0; tries < 3000 && openDescriptors().length > left; tries += 1) await sleep(10);
  t.is(openDescriptors().length, left);
});
