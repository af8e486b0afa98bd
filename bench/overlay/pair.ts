import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { applyBatch, Lab } from '../../cli/cluster/lab.ts';
import type { Machine } from '../../cli/cluster/topology.ts';
import { until } from '../../test/daemon/etcd-server.ts';
import { inside } from '../../test/netns/daemon-nodes.ts';
import { BenchAgent } from './agent.ts';
import type { Backend } from './peers.ts';
import { Store } from './store.ts';

/**
 * Two nodes with a way between them, and a pod on each:
 *
 *     pod 10.1.0.9 ── cni0, node-1, eth0 172.30.0.11 ── wire ── 172.30.0.12 eth0, node-2, cni0 ── pod 10.2.0.9
 *
 * A pod is a namespace behind a bridge, which the agent makes itself or we with the same settings; the rest of the pod is
 * made by the same lines on every pair: only the ways between the nodes differ. Nodes forward pods' packets, as real ones
 * do, so what a node's rules say of packets to the node itself meets the encapsulated ones alone.
 */
export interface Pair extends AsyncDisposable {
  readonly machines: readonly [Machine, Machine];
  readonly pods: readonly [Pod, Pod];
}

export interface Pod {
  readonly namespace: string;
  readonly address: string;
}

/** What fits on the wire, whose MTU is 1500. */
const mtusBytes: Readonly<Record<Backend, number>> = { vxlan: 1450, 'host-gw': 1500 };

export function labName(): string {
  return `b${randomBytes(3).toString('hex')}`;
}

interface Open {
  readonly lab: Lab;
  readonly machines: readonly [Machine, Machine];
  readonly stack: AsyncDisposableStack;
}

async function openLab(): Promise<Open> {
  await using stack = new AsyncDisposableStack();
  const lab = stack.use(await Lab.create({ name: labName(), nodes: 2 }));
  const [first, second] = lab.nodes;
  if (first === undefined || second === undefined) throw new Error('a lab without nodes');
  return { lab, machines: [first, second], stack: stack.move() };
}

const hostIn = (subnet: string, host: number) => subnet.replace(/\.0\/24$/, `.${host}`);

/** By agents, joined by etcd. They go on while the pair is there. */
export async function agentsPair(
  backend: Backend,
  options: readonly string[] = [],
): Promise<Pair & { readonly agents: readonly BenchAgent[] }> {
  const { lab, machines, stack: opened } = await openLab();
  await using stack = opened;
  const store = stack.use(await Store.open('etcd', lab, backend));
  const agents = machines.map((machine) => {
    const runDir = `${lab.directory}/${machine.name}`;
    mkdirSync(runDir, { recursive: true, mode: 0o700 });
    return stack.use(new BenchAgent(machine, runDir, [...store.agentOptions, ...options]));
  });
  for (const agent of agents) await agent.until(({ ready, peers }) => ready && peers === 1);
  const subnets = await Promise.all(agents.map(async (agent) => (await agent.status()).subnets[0] ?? ''));
  for (const { namespace } of machines)
    await until('a bridge for pods', () => inside(namespace, 'ip', '-4', '-o', 'address').includes(' cni0 '));
  const pods = await makePods(lab, subnets, backend);
  const owned = stack.move();
  return { machines, pods, agents, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The same way of the kernel's, made with `ip`. */
export async function handMadePair(backend: Backend): Promise<Pair> {
  const { lab, machines, stack: opened } = await openLab();
  await using stack = opened;
  for (const [at, { namespace }] of machines.entries()) {
    const peer = machines[1 - at]?.addresses[0] ?? '';
    const lines =
      backend === 'vxlan' ? handMadeTunnel(at, machines) : [`route add 10.${2 - at}.0.0/24 via ${peer}`];
    await applyBatch({ namespace, lines });
    if (backend !== 'vxlan') continue;
    const entry = ['fdb', 'add', macOf(1 - at), 'dev', 'hand', 'dst', peer, 'self', 'permanent'];
    inside(namespace, 'bridge', ...entry);
  }
  const subnets = ['10.1.0.0/24', '10.2.0.0/24'];
  for (const [at, machine] of machines.entries())
    await handMadeBridge(machine, subnets[at] ?? '', mtusBytes[backend]);
  const pods = await makePods(lab, subnets, backend);
  const owned = stack.move();
  return { machines, pods, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const macOf = (at: number) => `02:00:00:00:00:0${at + 1}`;

function handMadeTunnel(at: number, machines: readonly Machine[]): string[] {
  const own = machines[at]?.addresses[0] ?? '';
  const [subnet, other] = [`10.${at + 1}.0`, `10.${2 - at}.0`];
  return [
    `link add hand address ${macOf(at)} mtu 1450 type vxlan id 1 local ${own} dev eth0 dstport 8472 nolearning`,
    `address add ${subnet}.0/32 dev hand`,
    'link set hand up',
    `neigh add ${other}.0 lladdr ${macOf(1 - at)} dev hand nud permanent`,
    `route add ${other}.0/24 via ${other}.0 dev hand onlink`,
  ];
}

/** As the agent makes its own: by a fixed MAC address, too, which else is that of a pod's end. */
async function handMadeBridge({ namespace }: Machine, subnet: string, mtuBytes: number): Promise<void> {
  inside(namespace, 'sysctl', '-qw', 'net.ipv4.ip_forward=1');
  const lines = [
    `link add cni0 mtu ${mtuBytes} address 02:00:00:00:01:01 type bridge`,
    `address add ${hostIn(subnet, 1)}/24 dev cni0`,
    'link set cni0 up',
  ];
  await applyBatch({ namespace, lines });
}

async function makePods(lab: Lab, subnets: readonly string[], backend: Backend): Promise<[Pod, Pod]> {
  const [first, second] = await Promise.all(
    lab.nodes.map((machine, at) => makePod(lab, machine, subnets[at] ?? '', mtusBytes[backend])),
  );
  if (first === undefined || second === undefined) throw new Error('a lab without nodes');
  return [first, second];
}

async function makePod(lab: Lab, machine: Machine, subnet: string, mtuBytes: number): Promise<Pod> {
  const address = hostIn(subnet, 9);
  const namespace = await lab.podNamespace(machine.name);
  const onNode = [
    `link add pod mtu ${mtuBytes} master cni0 type veth peer name eth0 mtu ${mtuBytes} netns ${namespace}`,
    'link set pod up',
  ];
  const inPod = [
    `address add ${address}/24 dev eth0`,
    'link set eth0 up',
    `route add default via ${hostIn(subnet, 1)}`,
  ];
  await applyBatch({ namespace: machine.namespace, lines: onNode });
  await applyBatch({ namespace, lines: inPod });
  return { namespace, address };
}
