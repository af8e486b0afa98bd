import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { applyBatch, Lab } from '../../cli/cluster/lab.ts';
import type { Machine } from '../../cli/cluster/topology.ts';
import { inside } from '../../test/netns/daemon-nodes.ts';
import { BenchAgent } from './agent.ts';
import type { Backend } from './peers.ts';
import { Store } from './store.ts';

/**
 * Two nodes with a way between them. In the place of a pod, each has one address of its subnet on its loopback:
 *
 *     lo 10.1.0.9 ── node-1 ── eth0 172.30.0.11 ── wire ── 172.30.0.12 eth0 ── node-2 ── lo 10.2.0.9
 */
export interface Pair extends AsyncDisposable {
  readonly machines: readonly [Machine, Machine];
  readonly pods: readonly [string, string];
}

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
  const pods = await makePods(machines, subnets);
  const owned = stack.move();
  return { machines, pods, agents, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The same way of the kernel's, made with `ip`. */
export async function handMadePair(backend: Backend): Promise<Pair> {
  const { machines, stack: opened } = await openLab();
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
  const pods = await makePods(machines, ['10.1.0.0/24', '10.2.0.0/24']);
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

async function makePods(machines: readonly Machine[], subnets: readonly string[]): Promise<[string, string]> {
  const pods = subnets.map((subnet) => subnet.replace(/\.0\/24$/, '.9'));
  for (const [at, { namespace }] of machines.entries())
    await applyBatch({ namespace, lines: [`address add ${pods[at]}/32 dev lo`] });
  return [pods[0] ?? '', pods[1] ?? ''];
}
