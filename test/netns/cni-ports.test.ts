import test, { type ExecutionContext } from 'ava';
import { CniNode, eventually, testConfig } from '../cni/node.ts';

/* The pods' ends on the host stay as they must be, whatever somebody does to them. */

interface Attached {
  readonly node: CniNode;
  readonly pair: string;
  /** All that must stay, as `ip` and `tc` tell it; without what the kernel counts. */
  readonly state: () => Promise<string>;
}

async function attach(t: ExecutionContext, options: object): Promise<Attached> {
  const node = CniNode.open(t);
  await node.start();
  const { exitCode, stdout } = await node.call('ADD', { ...node.pod(), config: testConfig(options) });
  t.is(exitCode, 0, stdout);
  const [pair = ''] = await node.pairs();
  const state = async () => {
    const link = await node.exec('ip', '-d', '-o', 'link', 'show', pair);
    const qdisc = await node.exec('tc', 'qdisc', 'show', 'dev', pair);
    const routes = await node.exec('ip', 'route', 'show', 'dev', pair);
    const neighbours = await node.exec('ip', 'neigh', 'show', 'dev', pair, 'nud', 'permanent');
    const told = /(<.*>|mtu \d+|master \S+|alias.*|hairpin o\w+|isolated o\w+)/g;
    return [...(link.match(told) ?? []), qdisc, routes, neighbours].join('\n');
  };
  return { node, pair, state };
}

const bandwidth = { ingressRate: 1e9, ingressBurst: 1e7, egressRate: 1e9, egressBurst: 1e7 };
const ptpRanges = { ranges: [[{ subnet: '10.55.0.0/24' }]] };

const damages = {
  'an isolated port that is not any more': [
    { portIsolation: true, hairpinMode: false },
    'bridge link set dev PAIR isolated off hairpin on',
  ],
  'a port taken from its bridge': [{}, 'ip link set PAIR nomaster'],
  'an end on another bridge': [{}, 'ip link set PAIR master other'],
  'an end that is down': [{}, 'ip link set PAIR down'],
  'another MTU': [{ mtu: 1400 }, 'ip link set PAIR mtu 1300'],
  'a limit that was taken away': [{ runtimeConfig: { bandwidth } }, 'tc qdisc del dev PAIR root'],
  'a redirection that was taken away': [{ runtimeConfig: { bandwidth } }, 'tc qdisc del dev PAIR ingress'],
  'an end without a bridge that is down': [{ mode: 'ptp', ipam: ptpRanges }, 'ip link set PAIR down'],
  'a route to a pod': [{ mode: 'ptp', ipam: ptpRanges }, 'ip route del 10.55.0.2 dev PAIR'],
} as const;

for (const [damage, [options, command]] of Object.entries(damages)) {
  test(`${damage}: it is as it was, soon, and after the next DEL nothing is left`, async (t) => {
    const { node, pair, state } = await attach(t, options);
    await node.exec('ip', 'link', 'add', 'other', 'type', 'bridge');
    const before = await state();
    await node.exec(...command.replaceAll('PAIR', pair).split(' '));
    t.true(await eventually(async () => (await state()) === before), `${before}\n${await state()}`);
    const [lease = ''] = node.leases();
    const [network, containerId] = lease.split('/');
    t.is(
      (await node.call('DEL', { containerId: containerId ?? '', config: testConfig(options) })).exitCode,
      0,
    );
    t.is(network, 'testnet');
    t.true(await eventually(async () => (await node.pairs()).length === 0));
  });
}

test('a pair that went with its pod is missed by nobody', async (t) => {
  const { node, pair } = await attach(t, {});
  await node.exec('ip', 'link', 'del', pair);
  await node.call('ADD', node.pod());
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  t.deepEqual(
    node.log.filter((line) => line.includes('repaired')),
    [],
  );
});
