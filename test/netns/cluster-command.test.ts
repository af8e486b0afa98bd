import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { directoryOf, removeLab } from '../../cli/cluster/lab.ts';
import { labName, namespacesOf } from './lab.ts';

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));

interface Ended {
  readonly code: number | string | null | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

function fairlead(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, ...args], (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : error.code, stdout, stderr }),
    );
  });
}

function openName(t: ExecutionContext): string {
  const name = labName();
  t.teardown(() => removeLab(name));
  return name;
}

/** Starts `cluster up` and waits until it says `text`. */
async function startUp(name: string, text: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [CLI, 'cluster', 'up', '--name', name, '--nodes', '1'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  for await (const part of child.stderr?.setEncoding('utf8').iterator({ destroyOnReturn: false }) ?? []) {
    said += part;
    if (said.includes(text)) break;
  }
  child.stderr?.resume();
  return child;
}

async function isGone(name: string): Promise<boolean> {
  for (let tries = 0; tries < 3_000; tries += 1) {
    if (namespacesOf(`fl-${name}-`).length === 0 && !existsSync(directoryOf(name))) return true;
    await sleep(20);
  }
  return false;
}

for (const [signal, code] of [
  ['SIGINT', 1],
  ['SIGTERM', 1],
  ['SIGKILL', null],
] as const) {
  for (const stage of ['making 1 machines', 'starting the control plane', 'starting 1 nodes']) {
    test(`cluster up that gets ${signal} while ${stage} leaves nothing behind`, async (t) => {
      const name = openName(t);
      const child = await startUp(name, stage);
      const exit = once(child, 'exit');
      child.kill(signal);
      t.is((await exit)[0], code);
      t.true(await isGone(name));
    });
  }
}

test('a cluster goes up once, tells its state as JSON, and goes down without a trace', async (t) => {
  const name = openName(t);
  const up = await fairlead('cluster', 'up', '--name', name, '--nodes', '1', '-o', 'json');
  t.like(JSON.parse(up.stdout), { name, nodes: [{ name: 'node-1', namespace: `fl-${name}-node-1` }] });
  const again = await fairlead('cluster', 'up', '--name', name);
  t.like(again, { code: 1, stdout: '' });
  t.regex(again.stderr, /is up already/);
  const [cluster] = JSON.parse((await fairlead('cluster', 'status', '--name', name, '-o', 'json')).stdout);
  t.like(cluster, { name, backend: 'vxlan', nodes: [{ name: 'node-1', status: { ready: true } }] });
  t.is((await fairlead('cluster', 'down', '--name', name)).code, 0);
  t.true(await isGone(name));
});

test('a cluster whose record is damaged is named, and can be removed', async (t) => {
  const name = openName(t);
  t.is((await fairlead('cluster', 'up', '--name', name, '--nodes', '1')).code, 0);
  writeFileSync(`${directoryOf(name)}/cluster.json`, '{');
  const status = await fairlead('cluster', 'status', '--name', name);
  t.is(status.code, 1);
  t.regex(status.stderr, /cluster\.json cannot be read.*fairlead cluster down --name/);
  t.is((await fairlead('cluster', 'down', '--name', name)).code, 0);
  t.true(await isGone(name));
});
