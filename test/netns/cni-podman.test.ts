/** podman with its CNI backend on a node of a lab; see clients/stage.ts for the machines. */
import { writeFileSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { Podman } from './clients/podman.ts';
import { WEB_ANSWER, WEB_PORT, WEB_SERVER } from './clients/root-filesystem.ts';
import {
  type Conflist,
  FAIRLEAD_CONFLIST,
  PORTMAP_CONFLIST,
  requirePrograms,
} from './clients/runtime-host.ts';
import { assertConnected, assertNoTrace, openStage, type Stage, url } from './clients/stage.ts';

async function openPodman(
  t: ExecutionContext,
  conflist: Conflist = FAIRLEAD_CONFLIST,
): Promise<[Podman, Stage]> {
  requirePrograms('podman', 'conmon', 'crun', 'busybox');
  const stage = await openStage(t, conflist, async (host) => {
    await new Podman(host).command('info'); // makes its directories
  });
  return [new Podman(stage.host), stage];
}

async function addressesOf(podman: Podman, container: string): Promise<string[]> {
  const { IPAddress, GlobalIPv6Address } = await podman.network(container);
  return [IPAddress, GlobalIPv6Address];
}

test('a container of podman has addresses, reaches pods and is reached, and goes without a trace', async (t) => {
  const [podman, stage] = await openPodman(t);
  const id = await podman.run(['--detach', '--name', 'web'], WEB_SERVER);
  const ips = await addressesOf(podman, 'web');
  const inside = (...command: string[]) => podman.command('exec', 'web', ...command);
  await assertConnected(t, stage, { ips, inside });
  const shown = await inside('/bin/ip', 'address', 'show', 'eth0');
  for (const ip of ips) t.true(shown.includes(` ${ip}/`), shown);
  const answer = await podman.run(['--rm'], ['/bin/wget', '-q', '-O', '-', url(ips[0] ?? '')]);
  t.deepEqual(JSON.parse(answer), WEB_ANSWER, 'a second container reaches the first');

  await podman.command('restart', '--time', '0', 'web');
  await assertConnected(t, stage, { ips: await addressesOf(podman, id), inside });

  await podman.command('rm', '--force', '--time', '0', 'web');
  await assertNoTrace(t, stage);
});

test('a container of podman that ends by itself is detached by its clean-up process', async (t) => {
  const [podman, stage] = await openPodman(t);
  const untilTold = 'until [ -e /tmp/end ]; do sleep 0.1; done';
  await podman.run(['--detach', '--rm', '--name', 'short'], ['/bin/sh', '-c', untilTold]);
  const [ip] = await addressesOf(podman, 'short');
  t.truthy(ip);
  writeFileSync(`${stage.host.directory}/rootfs/tmp/end`, '');
  await assertNoTrace(t, stage);
});

test('a container of podman whose program is missing leaves nothing', async (t) => {
  const [podman, stage] = await openPodman(t);
  await t.throwsAsync(podman.run(['--rm'], ['/bin/missing']), { message: /missing/ });
  await assertNoTrace(t, stage);
});

for (const [what, conflist] of Object.entries({
  'the conflist of the agent': FAIRLEAD_CONFLIST,
  'a chain with portmap': PORTMAP_CONFLIST,
})) {
  test(`podman publishes a port to the outside, to its own machine and to a pod, by ${what}`, async (t) => {
    const [podman, stage] = await openPodman(t, conflist);
    const { cluster, host, near, far } = stage;
    const port = 18080;
    await podman.run(['--detach', '--name', 'web', '--publish', `${port}:${WEB_PORT}`], WEB_SERVER);
    const outside = cluster.lab.workload(cluster.lab.outside.namespace, 'outside');
    const machine = cluster.lab.workload(host.node.namespace, 'machine');
    for (const address of host.node.addresses) {
      for (const client of [outside, machine, near.app, far.app]) {
        const seen = await client.get(url(address, port));
        t.like(seen, { ok: true, answer: WEB_ANSWER }, `${client.namespace} → ${address}`);
      }
    }
    t.like(await machine.get(url('127.0.0.1', port)), { ok: true, answer: WEB_ANSWER });
    const itself = await podman.command(
      'exec',
      'web',
      '/bin/wget',
      '-q',
      '-O',
      '-',
      url(host.node.addresses[0], port),
    );
    t.deepEqual(JSON.parse(itself), WEB_ANSWER, 'hairpin');

    await podman.command('rm', '--force', '--time', '0', 'web');
    t.like(await outside.get(url(host.node.addresses[0], port), 500), { ok: false });
    await assertNoTrace(t, stage);
  });
}
