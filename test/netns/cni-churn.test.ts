import test from 'ava';
import { CniNode, eventually, type Pod, testConfig } from '../cni/node.ts';

const count = 200;
const atOnce = 32;

/** Runs `work` for every item, so many at the same time. */
async function each<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const rest = [...items];
  const worker = async () => {
    for (let item = rest.pop(); item !== undefined; item = rest.pop()) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

test('200 pods attached and detached, 32 at the same time: no address twice, nothing left', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const config = testConfig({ ipam: { ranges: [[{ subnet: '10.55.0.0/24' }], [{ subnet: 'fd55::/64' }]] } });
  const warm = node.pod();
  await node.call('ADD', { ...warm, config });
  await node.call('DEL', { ...warm, config });
  await eventually(async () => (await node.pairs()).length === 0);
  const descriptors = await node.descriptorsAtRest();
  const held = new Set<string>();
  const attach = async (pod: Pod) => {
    const { exitCode, stdout } = await node.call('ADD', { ...pod, config });
    t.is(exitCode, 0, stdout);
    for (const { address } of JSON.parse(stdout).ips) {
      t.false(held.has(address), `${address} was given twice`);
      held.add(address);
    }
  };
  const detach = async (pod: Pod) => {
    const { exitCode, stdout } = await node.call('DEL', { ...pod, config });
    t.is(exitCode, 0, stdout);
  };
  const pods = Array.from({ length: count }, () => node.pod());
  await each(pods, attach);
  t.is((await node.pairs()).length, count);
  t.is(node.leases().length, count);
  // Half go while others of them are asked to go a second time.
  await each([...pods.slice(0, count / 2), ...pods.slice(0, 20)], detach);
  await each(pods.slice(count / 2), detach);
  t.deepEqual(node.leases(), []);
  t.true(await eventually(async () => (await node.pairs()).length === 0));
  t.true(await eventually(async () => node.descriptors() <= descriptors), `${node.descriptors()}`);
  // Whoever looks after the pods sees nobody's damage in this.
  t.deepEqual(
    node.log.filter((line) => /repaired|not made again/.test(line)),
    [],
  );
});
