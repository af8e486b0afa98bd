import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lab } from '../../cli/cluster/lab.ts';
import type { Machine } from '../../cli/cluster/topology.ts';
import type { Frame, Target } from '../frame.ts';
import { BenchAgent } from './agent.ts';
import { type Backend, peerOf } from './peers.ts';
import { Store } from './store.ts';
import { KernelWatch } from './watch.ts';
import type { WriterArguments } from './writer.ts';

const startTarget: Target = { atMost: 3000 };
const memoryTarget: Target = { atMost: 120 };
const changeTarget: Target = { atMost: 50 };
/** Numbers that are not among the first peers. */
const firstJoiner = 12_000;
/** Between two changes, so that each is one. */
const changeRestMs = 400;

/** A lab's one real node among so many that are only entries of the store. */
export async function measureScale(
  frame: Frame,
  lab: Lab,
  kind: WriterArguments['kind'],
  backend: Backend,
): Promise<void> {
  const peers = frame.quick ? 200 : 5_000;
  const changes = frame.quick ? 2 : 20;
  const restMs = frame.quick ? 50 : changeRestMs;
  const name = `${peers.toLocaleString('en')} leases in ${kind}, ${backend}`;
  const [machine, other] = lab.nodes;
  if (machine === undefined || other === undefined) throw new Error('a lab without nodes');
  await using store = await Store.open(kind, lab, backend);
  frame.progress(`${name}: the store is filled`);
  await store.write({ join: Array.from({ length: peers }, (_, n) => n) });
  const runDir = `${lab.directory}/${kind}-${backend}`;
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  await startOnce(other, `${runDir}-other`);
  frame.progress(`${name}: start`);
  await using agent = new BenchAgent(machine, runDir, store.agentOptions);
  frame.figure(`${name}: start of the process to all rows`, await agent.saidMs('ready'), 'ms', startTarget);
  const atStart = await agent.status();
  if (atStart.peers !== peers) throw new Error(`${atStart.peers} peers of ${peers}`);
  frame.figure(`${name}: CPU until then`, agent.cpuMs(), 'ms');
  frame.figure(`${name}: rows written`, atStart.writes, 'rows');
  await sleep(frame.quick ? 0 : 2_000);
  frame.figure(`${name}: resident memory`, agent.residentBytes() / 1e6, 'MB', memoryTarget);

  using watch = new KernelWatch(machine.namespace);
  const joins: number[] = [];
  const leaves: number[] = [];
  const { writes } = await agent.status();
  const cpuMs = agent.cpuMs();
  for (let n = firstJoiner; n < firstJoiner + changes; n += 1) {
    const { subnet } = peerOf(n, backend);
    watch.forget();
    const joinedNs = await store.write({ join: [n] });
    await watch.until((written) =>
      written.some(({ type, destination }) => type === 'route' && destination === subnet),
    );
    joins.push(sinceMs(joinedNs, watch));
    await sleep(restMs);
    watch.forget();
    const leftNs = await store.write({ leave: n });
    await watch.until((written) =>
      backend === 'vxlan'
        ? written.filter(({ type }) => type === 'no neighbor').length >= 2
        : written.some(({ type }) => type === 'no route'),
    );
    leaves.push(sinceMs(leftNs, watch));
    await sleep(restMs);
  }
  frame.samples(`${name}: a node joins, store to kernel`, joins, { target: changeTarget });
  frame.samples(`${name}: a node leaves, store to kernel`, leaves, { target: changeTarget });
  frame.figure(`${name}: CPU of one change`, (agent.cpuMs() - cpuMs) / (2 * changes), 'ms');
  const after = await agent.status();
  frame.figure(`${name}: rows written for one change`, (after.writes - writes) / (2 * changes), 'rows');
  frame.figure(`${name}: resident memory after that`, agent.residentBytes() / 1e6, 'MB', memoryTarget);
}

/** The very first start on a machine translates the code; that is not what is measured. */
async function startOnce(machine: Machine, runDir: string): Promise<void> {
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  await using agent = new BenchAgent(machine, runDir, ['--pod-cidr', '10.254.0.0/24']);
  await agent.saidMs('ready');
  await sleep(500);
}

function sinceMs(beginNs: bigint, { written }: KernelWatch): number {
  return Number((written.at(-1)?.atNs ?? beginNs) - beginNs) / 1e6;
}
