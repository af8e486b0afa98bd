import test, { type ExecutionContext } from 'ava';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import type { Result } from '../../cni/result.ts';
import { type FirewallRows, parseFirewall, planFirewall } from '../../cni/types/firewall.ts';
import { planSpoofCheck } from '../../cni/types/spoof-check.ts';
import { type Mac, parseMac } from '../../core/address.ts';
import { eventually } from '../cni/node.ts';
import { type FilterLab, type FilterPod, openFilterLab } from './cni-filter-lab.ts';

/*
 * Pod 5 tells lies, pod 6 is its neighbour. Each lie is first believed, then the port is guarded and it is not; and
 * what pod 5 says truly goes on being heard.
 */
const IP = '/usr/sbin/ip';
const foreignMac = '02:00:00:00:00:99';

interface Liar {
  readonly lab: FilterLab;
  readonly pod: FilterPod;
  readonly neighbour: FilterPod;
  readonly mac: Mac;
  /** Guards the port of pod 5; with its addresses or without. */
  guard(addresses: boolean): Promise<void>;
  ip(command: string): void;
}

async function openLiar(t: ExecutionContext): Promise<Liar> {
  const lab = await openFilterLab(t);
  const [pod, neighbour] = [await lab.addPod(5), await lab.addPod(6)];
  const [link] = JSON.parse(lab.run(pod.namespace, `${IP} -j link show dev eth0`)) as { address: string }[];
  const mac = parseMac(link?.address ?? '');
  if (mac === undefined) throw new Error('no MAC address');
  const { port, addresses } = pod;
  return {
    lab,
    pod,
    neighbour,
    mac,
    guard: (withAddresses) =>
      lab.filter({
        bridgeElements: planSpoofCheck({ port, mac, addresses: withAddresses ? addresses : undefined }),
      }),
    ip: (command) => void lab.run(pod.namespace, `${IP} ${command}`),
  };
}

/** Whether the neighbour answers to pod 5, asked from an address of it. */
/** What must come is waited for, whatever else the processors do; what must not come would come soon. */
const ANSWER_LIMIT_MS = 30_000;
const SILENCE_MS = 400;

async function isHeard(
  { pod, neighbour }: Liar,
  family: 4 | 6 = 4,
  limitMs = ANSWER_LIMIT_MS,
): Promise<boolean> {
  const address = neighbour.ips[family === 4 ? 0 : 1];
  const outcome = await pod.workload.datagram(address, 80, limitMs);
  return outcome.ok;
}

test('a pod with another MAC address is not heard, and is heard again with its own', async (t) => {
  const liar = await openLiar(t);
  const { lab, mac, neighbour, pod } = liar;
  await liar.guard(false);
  t.true(await isHeard(liar));
  t.true(await isHeard(liar, 6));
  liar.ip(`link set eth0 address ${foreignMac}`);
  t.false(await isHeard(liar, 4, SILENCE_MS));
  t.false(await isHeard(liar, 6, SILENCE_MS));
  await lab.filter({});
  t.true(await isHeard(liar), 'not guarded');
  await liar.guard(false);
  liar.ip(`link set eth0 address ${mac}`);
  t.true(await isHeard(liar));
  t.true((await neighbour.workload.datagram(pod.ips[0], 80, ANSWER_LIMIT_MS)).ok, 'others are not guarded');
});

test('a pod with another source address is not heard, if addresses are checked', async (t) => {
  const liar = await openLiar(t);
  await liar.guard(true);
  t.true(await isHeard(liar));
  t.true(await isHeard(liar, 6));
  liar.ip('addr add 10.244.1.77/24 dev eth0');
  liar.ip('addr add fd00:10:244:1::77/64 dev eth0 nodad');
  liar.ip('route add 10.244.1.6 dev eth0 src 10.244.1.77');
  liar.ip('-6 route add fd00:10:244:1::6 dev eth0 src fd00:10:244:1::77');
  t.false(await isHeard(liar, 4, SILENCE_MS));
  t.false(await isHeard(liar, 6, SILENCE_MS));
  await liar.guard(false);
  t.true(await isHeard(liar), 'only the MAC address is checked');
  t.true(await isHeard(liar, 6));
});

test('nobody learns an address from a pod that is not its own, by ARP or neighbour discovery', async (t) => {
  const liar = await openLiar(t);
  const { lab, neighbour } = liar;
  liar.ip('addr add 10.244.1.77/24 dev eth0');
  liar.ip('addr add fd00:10:244:1::77/64 dev eth0 nodad');
  const learned = async () => {
    for (const address of ['10.244.1.77', 'fd00:10:244:1::77']) {
      await neighbour.workload.datagram(address, 80, 400);
    }
    const rows = JSON.parse(lab.run(neighbour.namespace, `${IP} -j neigh show dev eth0`)) as {
      dst: string;
      lladdr?: string;
    }[];
    return rows.filter(({ dst, lladdr }) => /77$/.test(dst) && lladdr !== undefined).map(({ dst }) => dst);
  };
  await liar.guard(true);
  t.deepEqual(await learned(), []);
  lab.run(neighbour.namespace, `${IP} neigh flush all`);
  t.true(await isHeard(liar), 'its own address is learned');
  await lab.filter({});
  lab.run(neighbour.namespace, `${IP} neigh flush all`);
  t.deepEqual((await learned()).toSorted(), ['10.244.1.77', 'fd00:10:244:1::77']);
});

test('a guarded pod still finds out that its IPv6 address is free', async (t) => {
  const liar = await openLiar(t);
  await liar.guard(true);
  liar.ip('addr del fd00:10:244:1::5/64 dev eth0');
  liar.ip('addr add fd00:10:244:1::5/64 dev eth0');
  t.true(await eventually(() => isHeard(liar, 6, 1_000)));
});

function firewall(pod: FilterPod, ingressPolicy: string, bridge: string): FirewallRows {
  const config = parseFirewall(foldKeys({ type: 'firewall', backend: 'nftables', ingressPolicy }));
  if (config instanceof CniError) throw config;
  const result: Result = {
    interfaces: [{ name: bridge }],
    ips: pod.addresses.map((address) => ({ address })),
    routes: [],
    dns: { nameservers: [], search: [], options: [] },
  };
  const rows = planFirewall(config, result);
  if (rows instanceof CniError) throw rows;
  return rows;
}

function together(rows: readonly FirewallRows[]) {
  return {
    elements: rows.flatMap(({ elements }) => elements),
    bridgeElements: rows.flatMap(({ bridgeElements }) => bridgeElements),
  };
}

test('an isolated pod is not reached by its neighbours, but by its node', async (t) => {
  const liar = await openLiar(t);
  const { lab, pod, neighbour } = liar;
  const reached = async (ip: string) => (await pod.workload.datagram(ip, 80, 400)).ok;
  await lab.filter(
    together([firewall(pod, 'same-bridge', 'cni0'), firewall(neighbour, 'same-bridge', 'cni0')]),
  );
  t.deepEqual([await reached(neighbour.ips[0]), await reached(neighbour.ips[1])], [true, true]);
  await lab.filter(together([firewall(pod, 'isolated', 'cni0'), firewall(neighbour, 'isolated', 'cni0')]));
  t.deepEqual([await reached(neighbour.ips[0]), await reached(neighbour.ips[1])], [false, false]);
  t.true((await lab.client('node').datagram(neighbour.ips[0], 80, 400)).ok);
});

test('pods with an ingress policy are not reached from another bridge with one', async (t) => {
  const liar = await openLiar(t);
  const { lab, pod, neighbour } = liar;
  const { namespace } = lab.node;
  for (const line of [
    'link add cni1 type bridge',
    'addr add 10.244.2.1/24 dev cni1',
    'link set cni1 up',
    'link set port6 master cni1',
  ]) {
    lab.run(namespace, `${IP} ${line}`);
  }
  lab.run(neighbour.namespace, `${IP} addr add 10.244.2.6/24 dev eth0`);
  lab.run(neighbour.namespace, `${IP} addr del 10.244.1.6/24 dev eth0`);
  lab.run(neighbour.namespace, `${IP} route replace default via 10.244.2.1`);
  const other = {
    ...neighbour,
    addresses: ['10.244.2.6/24', neighbour.addresses[1]],
  } as unknown as FilterPod;
  const reached = async () => (await pod.workload.datagram('10.244.2.6', 80, 400)).ok;
  await lab.filter(together([firewall(pod, 'same-bridge', 'cni0'), firewall(other, 'open', 'cni1')]));
  t.true(await reached(), 'a bridge without a policy');
  await lab.filter(together([firewall(pod, 'same-bridge', 'cni0'), firewall(other, 'same-bridge', 'cni1')]));
  t.false(await reached());
});
