/** containerd, by `ctr` and by the kubelet's interface, on a node of a lab; see clients/stage.ts for the machines. */
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Containerd, CRI_NAMESPACE } from './clients/containerd.ts';
import { CriClient } from './clients/cri.ts';
import { WEB_ANSWER, WEB_SERVER } from './clients/root-filesystem.ts';
import { type Conflist, FAIRLEAD_CONFLIST, requirePrograms } from './clients/runtime-host.ts';
import { assertConnected, assertNoTrace, openStage, type Stage, url } from './clients/stage.ts';

const START_TIMEOUT_MS = 60_000;

async function openContainerd(
  t: ExecutionContext,
  conflist: Conflist = FAIRLEAD_CONFLIST,
): Promise<[Containerd, Stage]> {
  requirePrograms('containerd', 'containerd-shim-runc-v2', 'ctr', 'runc', 'busybox');
  let containerd: Containerd | undefined;
  const stage = await openStage(t, conflist, async (host) => {
    containerd = await Containerd.start(host);
  });
  if (containerd === undefined) throw new Error('containerd was not started');
  return [containerd, stage];
}

/** Runs a command in a container of containerd. */
const execIn =
  (containerd: Containerd, namespace: string, container: string) =>
  (...command: string[]) =>
    containerd.ctr('--namespace', namespace, 'tasks', 'exec', '--exec-id', 'test', container, ...command);

/** Addresses of eth0 as the container has them, IPv4 first. */
async function addressesIn(inside: (...command: string[]) => Promise<string>): Promise<string[]> {
  const end = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    try {
      const text = await inside('/bin/ip', 'address', 'show', 'eth0', 'scope', 'global');
      return [...text.matchAll(/inet6? ([0-9a-f.:]+)\//g)].map(([, ip]) => ip ?? '');
    } catch (error) {
      if (performance.now() > end) throw error;
      await sleep(50);
    }
  }
}

test('a container of ctr has addresses, reaches pods and is reached, and goes without a trace', async (t) => {
  const [containerd, stage] = await openContainerd(t);
  const container = containerd.run('web', WEB_SERVER);
  const inside = execIn(containerd, 'default', 'web');
  const ips = await addressesIn(inside);
  await assertConnected(t, stage, { ips, inside });
  const second = containerd.run('second', ['/bin/wget', '-q', '-O', '-', url(ips[0] ?? '')]);
  const { code, output } = await second.ended;
  t.is(code, 0, output);
  t.deepEqual(JSON.parse(output), WEB_ANSWER, 'a second container reaches the first');

  await containerd.ctr('tasks', 'kill', '--signal', 'SIGKILL', 'web');
  t.is((await container.ended).output, '');
  await assertNoTrace(t, stage);
});

test('a pod of the kubelet has addresses and a host port, and goes without a trace', async (t) => {
  const [containerd, stage] = await openContainerd(t);
  const { cluster, host } = stage;
  await containerd.importSandboxImage();
  using cri = new CriClient(containerd.socketPath);
  t.deepEqual(await cri.problems(), []);
  const id = await cri.runPodSandbox({ name: 'web', ports: [{ containerPort: 8080, hostPort: 18080 }] });
  const ips = await cri.addresses(id);
  const inside = execIn(containerd, CRI_NAMESPACE, id);
  t.deepEqual(await addressesIn(inside), ips);
  await assertConnected(t, stage, { ips, inside });
  const outside = cluster.lab.workload(cluster.lab.outside.namespace, 'outside');
  for (const address of host.node.addresses) {
    t.like(await outside.get(url(address, 18080)), { ok: true, answer: WEB_ANSWER }, address);
  }

  await cri.stopPodSandbox(id);
  await cri.stopPodSandbox(id);
  await cri.removePodSandbox(id);
  await assertNoTrace(t, stage);
});
