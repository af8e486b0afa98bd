import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { CniNode, eventually, execIn, testConfig } from '../cni/node.ts';
import { factOf, missingBridgeVlans } from './missing.ts';

/** Far more than any of these takes. */
const stepsMax = 60;
const endMs = 1_000;

interface Killed {
  readonly from: 'start' | 'ready';
  /** Before the agent that is killed, with one that is not. */
  prepare?(node: CniNode): Promise<void>;
  /** What it is killed at; its outcome does not matter. */
  act?(node: CniNode): Promise<unknown>;
  /** With the agent after it. */
  check(t: ExecutionContext, node: CniNode): Promise<unknown>;
}

/** On a new node for each step, until it lives through all of them. Gives how many there are. */
async function killAtEachStep(t: ExecutionContext, { from, prepare, act, check }: Killed): Promise<number> {
  for (let steps = 1; steps < stepsMax; steps += 1) {
    await using node = CniNode.create();
    await prepare?.(node);
    const started = await node.start({ killAfter: { from, steps } }).then(
      () => true,
      () => false,
    );
    if (started) await act?.(node);
    // Its connections end a little before it does.
    await Promise.race([node.ended(), sleep(endMs)]);
    if (node.isServing) return steps - 1;
    await node.start();
    t.log(`killed after step ${steps}`);
    await check(t, node);
  }
  return stepsMax;
}

function assertSteps(t: ExecutionContext, steps: number, least: number): void {
  t.true(steps >= least && steps < stepsMax, `${steps} steps`);
}

async function nothingIsLeft(t: ExecutionContext, node: CniNode, links: RegExp): Promise<void> {
  t.deepEqual(node.leases(), []);
  const others = async () => (await node.links()).filter((name) => !links.test(name));
  t.true(await eventually(async () => (await others()).length === 0), (await others()).join());
}

for (const [what, more] of Object.entries({
  'a bridge': {},
  'a bridge with a VLAN': { vlan: 5 },
})) {
  const missing = 'vlan' in more ? missingBridgeVlans() : undefined;
  factOf(missing)(`killed at each step of making ${what}: the next agent makes it whole`, async (t) => {
    const containers: string[] = [];
    const ipam = { ranges: [[{ subnet: '10.55.0.0/24' }], [{ subnet: 'fd55::/64' }]] };
    const config = testConfig({ ...more, ipam });
    const steps = await killAtEachStep(t, {
      from: 'ready',
      async act(node) {
        const pod = node.pod();
        containers.push(pod.containerId);
        await node.call('ADD', { ...pod, config });
      },
      async check(t, node) {
        t.is((await node.call('DEL', { containerId: containers.at(-1) ?? '', config })).exitCode, 0);
        await nothingIsLeft(t, node, /^cni0(\.5)?$|^fl/);
        const pod = node.pod();
        const added = await node.call('ADD', { ...pod, config });
        t.is(added.exitCode, 0, added.stdout);
        await execIn(pod.netns, 'ping', '-c', '1', '-W', '5', '10.55.0.1');
        await execIn(pod.netns, 'ping', '-c', '1', '-W', '5', 'fd55::1');
      },
    });
    assertSteps(t, steps, 5);
  });
}

test.serial('killed at each step of host-local called by name: DEL frees the address', async (t) => {
  const config = { cniVersion: '1.0.0', name: 'testnet', type: 'host-local' };
  const ipam = { type: 'host-local', subnet: '10.55.0.0/30', dataDir: '/run/fairlead-test-none' };
  const call = (node: CniNode, verb: string, containerId: string) =>
    node.call(verb, { containerId, netns: node.pod().netns, config: { ...config, ipam } });
  const steps = await killAtEachStep(t, {
    from: 'ready',
    async act(node) {
      await call(node, 'ADD', 'a');
      await call(node, 'DEL', 'a');
    },
    async check(t, node) {
      t.is((await call(node, 'DEL', 'a')).exitCode, 0);
      t.deepEqual(node.leases(), []);
      t.is((await call(node, 'ADD', 'b')).exitCode, 0, 'the only address of the range');
    },
  });
  assertSteps(t, steps, 3);
});

test.serial("killed at each step of taking over host-local's files: each is a lease or a file", async (t) => {
  const config = (node: CniNode) => {
    const ipam = { type: 'host-local', subnet: '10.55.0.0/29', dataDir: join(node.directory, 'networks') };
    return testConfig({ type: 'bridge', ipam });
  };
  const held = ['10.55.0.2', '10.55.0.3', '10.55.0.4'];
  const steps = await killAtEachStep(t, {
    from: 'ready',
    async prepare(node) {
      const directory = join(node.directory, 'networks', 'testnet');
      mkdirSync(directory, { recursive: true });
      for (const ip of held) writeFileSync(join(directory, ip), `pod-${ip}\r\neth0`);
      writeFileSync(join(directory, 'last_reserved_ip.0'), held.at(-1) ?? '');
    },
    act: (node) => node.call('DEL', { containerId: 'another', config: config(node) }),
    async check(t, node) {
      const added = await node.call('ADD', { ...node.pod(), config: config(node) });
      t.false(
        held.some((ip) => added.stdout.includes(`${ip}/`)),
        added.stdout,
      );
      for (const ip of held) {
        t.is((await node.call('DEL', { containerId: `pod-${ip}`, config: config(node) })).exitCode, 0);
      }
      t.is(node.leases().length, 1);
      t.deepEqual(readdirSync(join(node.directory, 'networks', 'testnet')), ['last_reserved_ip.0']);
    },
  });
  assertSteps(t, steps, 3);
});

test.serial(
  'killed at each step of a start with leases and a queued DEL: no lease is lost, and the DEL is done',
  async (t) => {
    const [kept, gone] = ['kept', 'gone'];
    const steps = await killAtEachStep(t, {
      from: 'start',
      async prepare(node) {
        await node.start();
        for (const containerId of [kept, gone]) {
          const { netns } = node.pod();
          t.is((await node.call('ADD', { containerId, netns })).exitCode, 0);
        }
        await node.kill('SIGKILL');
        t.is((await node.call('DEL', { containerId: gone })).exitCode, 0);
      },
      async check(t, node) {
        t.deepEqual(node.leases(), ['testnet/kept/eth0 fairlead']);
        t.true(await eventually(async () => (await node.pairs()).length === 1));
        t.is((await node.call('DEL', { containerId: kept })).exitCode, 0);
        await nothingIsLeft(t, node, /^cni0$/);
      },
    });
    assertSteps(t, steps, 4);
  },
);
