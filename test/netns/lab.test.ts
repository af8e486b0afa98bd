import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import test from 'ava';
import { directoryOf, Lab, removeLab } from '../../cli/cluster/lab.ts';
import { planTopology, renderTopology } from '../../cli/cluster/topology.ts';
import { InputError } from '../../core/errors.ts';
import { labName, namespacesOf, OUTSIDE_ADDRESSES, openLab } from './lab.ts';

const run = promisify(execFile);

test('machines reach each other and the outside, over both families', async (t) => {
  const lab = await openLab(t, 2);
  const [first, second] = lab.nodes;
  if (first === undefined || second === undefined) return t.fail();
  const server = lab.workload(second.namespace, 'node-2');
  const outside = lab.workload(lab.outside.namespace, 'outside');
  const client = lab.workload(first.namespace, 'node-1');
  await Promise.all([server.serve('node-2', 8080), outside.serve('outside', 8080)]);
  for (const index of [0, 1] as const) {
    const targets = [second.addresses[index], OUTSIDE_ADDRESSES[index]];
    for (const target of targets) {
      const host = index === 1 ? `[${target}]` : target;
      t.like(await client.get(`http://${host}:8080/`), {
        ok: true,
        answer: { peer: first.addresses[index] },
      });
    }
  }
  t.like(await client.datagram(second.addresses[0], 8080), { ok: true, answer: { name: 'node-2' } });
  t.like(await client.get(`http://${second.addresses[0]}:9/`), { ok: false, error: 'ECONNREFUSED' });
});

test('a disposed lab leaves no namespace, process or directory', async (t) => {
  const name = labName();
  const lab = await Lab.create({ name, nodes: 1 });
  const pod = await lab.podNamespace('p');
  const { pid } = lab.workload(pod, 'p');
  t.deepEqual(namespacesOf(lab.topology.prefix).length, 5);
  await lab[Symbol.asyncDispose]();
  t.deepEqual(namespacesOf(lab.topology.prefix), []);
  t.false(existsSync(directoryOf(name)));
  t.false(existsSync(`/proc/${pid}`));
});

test('a lab whose maker is killed with -9 leaves nothing behind', async (t) => {
  const name = labName();
  const program = `
    const { Lab } = await import(${JSON.stringify(new URL('../../cli/cluster/lab.ts', import.meta.url).href)});
    const lab = await Lab.create({ name: ${JSON.stringify(name)}, nodes: 1 });
    lab.workload(lab.nodes[0].namespace, 'w');
    console.log('up');
    setInterval(() => {}, 1000);`;
  const maker: ChildProcess = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (maker.stdout === null) return t.fail();
  await once(maker.stdout, 'data');
  t.is(namespacesOf(`fl-${name}-`).length, 4);
  maker.kill('SIGKILL');
  const deadline = Date.now() + 60_000;
  while ((namespacesOf(`fl-${name}-`).length > 0 || existsSync(directoryOf(name))) && Date.now() < deadline) {
    await sleep(20);
  }
  t.deepEqual(namespacesOf(`fl-${name}-`), []);
  t.false(existsSync(directoryOf(name)));
});

test('while one process makes a lab, no other makes or removes one of its name', async (t) => {
  const lab = await openLab(t, 1);
  const busy = { message: new RegExp(`cluster ${lab.name} is being made or removed by another process`) };
  await t.throwsAsync(Lab.create({ name: lab.name, nodes: 1 }), busy);
  await t.throwsAsync(removeLab(lab.name), busy);
  t.is(namespacesOf(lab.topology.prefix).length, 4);
});

test('a lab that is kept outlives its maker, and can be removed by its name', async (t) => {
  const name = labName();
  t.teardown(() => removeLab(name));
  const program = `
    const { Lab } = await import(${JSON.stringify(new URL('../../cli/cluster/lab.ts', import.meta.url).href)});
    (await Lab.create({ name: ${JSON.stringify(name)}, nodes: 1 })).keep();`;
  await run(process.execPath, ['--input-type=module', '-e', program]);
  await sleep(200);
  t.is(namespacesOf(`fl-${name}-`).length, 4);
  await removeLab(name);
  t.deepEqual(namespacesOf(`fl-${name}-`), []);
  t.false(existsSync(directoryOf(name)));
});

test('labs with the same addresses run side by side', async (t) => {
  const [one, two] = await Promise.all([openLab(t, 1), openLab(t, 1)]);
  for (const lab of [one, two]) await lab.workload(lab.outside.namespace, lab.name).serve(lab.name, 8080);
  for (const lab of [one, two]) {
    const node = lab.nodes[0];
    if (node === undefined) return t.fail();
    const client = lab.workload(node.namespace, 'client');
    t.like(await client.get(`http://${lab.outside.addresses[0]}:8080/`), {
      ok: true,
      answer: { name: lab.name },
    });
  }
});

test('a failed creation removes what it had made', async (t) => {
  const name = labName();
  await run('ip', ['netns', 'add', `fl-${name}-control`]);
  await t.throwsAsync(Lab.create({ name, nodes: 1 }));
  t.deepEqual(namespacesOf(`fl-${name}-`), []);
});

test('names and counts that cannot be are refused with the value', (t) => {
  const error = t.throws(() => planTopology('not-good', 1000), { instanceOf: InputError });
  t.deepEqual(
    error?.problems.map((problem) => problem.path),
    ['name', 'nodes'],
  );
  t.regex(error?.message ?? '', /"not-good".*1000/);
});

test('every machine of the largest cluster has its own addresses', (t) => {
  const { machines } = planTopology('a', 243);
  t.is(new Set(machines.flatMap((machine) => machine.addresses)).size, 2 * 245);
  t.is(renderTopology(planTopology('a', 2)).length, 6);
});
