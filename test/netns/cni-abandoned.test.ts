import { spawn } from 'node:child_process';
import { chmodSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CniNode, eventually, testConfig } from '../cni/node.ts';

/* Pods that go without a DEL. */

const abandonedTimes = { lookMs: 300, missingMs: 1_500 };
const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];

async function started(t: ExecutionContext): Promise<CniNode> {
  const node = CniNode.open(t);
  await node.start({ abandonedTimes });
  return node;
}

const ownNamespace = `${readlinkSync('/proc/self/ns/net')}\n`;
const pause = () => new Promise((resolve) => setTimeout(resolve, abandonedTimes.missingMs * 2));

test('what a pod had whose namespace went is free some minutes later; pods that are there keep all', async (t) => {
  const node = await started(t);
  const config = testConfig({ ipMasq: true, runtimeConfig: { portMappings } });
  const [gone, other, renamed] = [node.pod(), node.pod(), node.pod()];
  for (const [pod, its] of [
    [gone, config],
    [other, testConfig()],
    [renamed, testConfig()],
  ] as const) {
    t.is((await node.call('ADD', { ...pod, config: its })).exitCode, 0);
  }
  const link = await node.exec('ip', '-o', 'link');
  const [, name = ''] =
    new RegExp(`(fl[0-9a-f]+)@.*alias fairlead testnet/${renamed.containerId}/`).exec(link) ?? [];
  await node.exec('ip', 'link', 'set', name, 'down');
  await node.exec('ip', 'link', 'set', name, 'name', 'elsewise');
  node.removeNamespace(gone);
  const lease = `testnet/${gone.containerId}/eth0 fairlead`;
  t.true(node.leases().includes(lease));
  t.true(await eventually(async () => !node.leases().includes(lease)));
  t.is(node.leases().length, 2);
  t.true(await eventually(async () => node.log.some((line) => line.includes('gone without a DEL'))));
  t.notRegex(await node.exec('/usr/sbin/nft', 'list', 'ruleset'), /8080/);
  const next = node.pod();
  t.is((await node.call('ADD', { ...next, config })).exitCode, 0);
  await pause();
  t.is(node.leases().length, 3);
  // The runtime may still come.
  t.is((await node.call('DEL', { ...gone, config })).exitCode, 0);
});

test('a foreign IPAM plugin is told of a pod that went', async (t) => {
  const node = await started(t);
  const program = join(node.directory, 'teller');
  const result = '{"cniVersion":"1.0.0","ips":[{"address":"10.55.0.9/24"}]}';
  writeFileSync(program, `#!/bin/sh\necho $CNI_COMMAND >> ${program}.log\necho '${result}'\n`);
  chmodSync(program, 0o755);
  const pod = node.pod();
  const config = testConfig({ type: 'bridge', ipam: { type: 'teller' } });
  const { exitCode, stdout } = await node.call('ADD', { ...pod, config, env: { CNI_PATH: node.directory } });
  t.is(exitCode, 0, stdout);
  node.removeNamespace(pod);
  t.true(await eventually(async () => node.leases().length === 0));
  t.is(readFileSync(`${program}.log`, 'utf8'), 'ADD\nDEL\n');
});

test('addresses and host ports of interfaces of others are free when the namespace is not mounted any more', async (t) => {
  const node = await started(t);
  const config = testConfig({
    type: 'host-local',
    ipam: { type: 'host-local', ranges: [[{ subnet: '10.55.0.0/24' }]] },
  });
  const [gone, left, alive, thread] = [node.pod(), node.pod(), node.pod(), node.pod()];
  for (const pod of [gone, left, alive]) t.is((await node.call('ADD', { ...pod, config })).exitCode, 0);
  // Of a path that ends with a process nobody knows what its end means.
  const sleeper = spawn('nsenter', [`--net=${thread.netns}`, 'sleep', '1000']);
  t.teardown(() => sleeper.kill('SIGKILL'));
  const isInside = () => node.exec('readlink', `/proc/${sleeper.pid}/ns/net`);
  const outside = await node.exec('readlink', '/proc/self/ns/net');
  t.true(await eventually(async () => ![outside, ownNamespace].includes(await isInside())));
  const byProcess = { ...thread, netns: `/proc/${sleeper.pid}/ns/net` };
  t.is((await node.call('ADD', { ...byProcess, config })).exitCode, 0);
  const ips = [{ address: '10.66.0.2/24' }];
  const portmap = { cniVersion: '1.0.0', name: 'other', type: 'portmap', runtimeConfig: { portMappings } };
  const chained = { ...gone, config: { ...portmap, prevResult: { cniVersion: '1.0.0', ips } } };
  const { exitCode, stdout } = await node.call('ADD', chained);
  t.is(exitCode, 0, stdout);
  t.is(node.leases().length, 5);
  sleeper.kill('SIGKILL');
  for (const pod of [gone, left]) node.removeNamespace(pod);
  // The file may be left.
  writeFileSync(left.netns, '');
  t.true(await eventually(async () => node.leases().length === 2), node.leases().join('\n'));
  await pause();
  const kept = [alive, thread].map(({ containerId }) => `testnet/${containerId}/eth0 host-local`);
  t.deepEqual(node.leases().toSorted(), kept.toSorted());
  t.notRegex(await node.exec('/usr/sbin/nft', 'list', 'ruleset'), /8080/);
});

test('an agent that starts again goes on with it', async (t) => {
  const node = await started(t);
  const config = testConfig({
    type: 'host-local',
    ipam: { type: 'host-local', ranges: [[{ subnet: '10.55.0.0/24' }]] },
  });
  const [gone, alive] = [node.pod(), node.pod()];
  for (const pod of [gone, alive]) t.is((await node.call('ADD', { ...pod, config })).exitCode, 0);
  await node.kill('SIGKILL');
  node.removeNamespace(gone);
  await node.start({ abandonedTimes });
  t.true(await eventually(async () => node.leases().length === 1));
  await pause();
  t.deepEqual(node.leases(), [`testnet/${alive.containerId}/eth0 host-local`]);
});
