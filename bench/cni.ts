import { mkdtempSync, rmSync } from 'node:fs';
import { CniNode } from '../test/cni/node.ts';
import {
  type Contestant,
  type Features,
  fairlead,
  hasReference,
  podNamespaces,
  reference,
  referenceDirectory,
  referenceNode,
} from './cni/contestants.ts';
import { buildRunner, runJobs } from './cni/runner.ts';
import { untilQuiet } from './frame/quiet.ts';
import { median } from './frame/statistics.ts';
import type { Frame, Target } from './frame.ts';

export const description = 'CNI ADD and DEL, fork to exit, against the reference plugins bridge + host-local';

const verbs = ['ADD', 'DEL'] as const;
type Verb = (typeof verbs)[number];

interface Scenario extends Features {
  readonly name: string;
  /** Calls at a time; twenty is what a node gets when it is drained or started. */
  readonly threads: number;
  readonly rounds: number;
  readonly pods: number;
  /** Of the ratios of the medians. */
  readonly targets?: Partial<Record<Verb, Target>>;
  /** Of the ratio of the 99th percentiles of ADD. */
  readonly p99Target?: Target;
}

const plain: Features = { ipMasq: false, hostPort: false };
const masquerade: Features = { ipMasq: true, hostPort: false };
const published: Features = { ipMasq: true, hostPort: true };

const scenarios: readonly Scenario[] = [
  {
    ...plain,
    name: 'bridge',
    threads: 1,
    rounds: 5,
    pods: 100,
    targets: { ADD: { atLeast: 8 }, DEL: { atLeast: 20 } },
  },
  {
    ...masquerade,
    name: 'masquerade',
    threads: 1,
    rounds: 5,
    pods: 100,
    targets: { ADD: { atLeast: 22 } },
  },
  {
    ...published,
    name: 'masquerade and port',
    threads: 1,
    rounds: 3,
    pods: 100,
    targets: { ADD: { atLeast: 60 }, DEL: { atLeast: 150 } },
  },
  { ...plain, name: 'bridge, 20 at a time', threads: 20, rounds: 5, pods: 100 },
  {
    ...published,
    name: 'masquerade and port, 20 at a time',
    threads: 20,
    rounds: 3,
    pods: 100,
    p99Target: { atLeast: 30 },
  },
];

/** A call in a loop of Node's that takes longer than this holds up everything else that the daemon does. */
const loopTarget: Target = { atMost: 20 };

export async function run(frame: Frame): Promise<void> {
  if (!hasReference()) {
    frame.missing(
      'reference plugins',
      `no ${referenceDirectory}/bridge (Debian: containernetworking-plugins)`,
    );
  }
  const directory = mkdtempSync('/run/fairlead-bench-');
  try {
    const runner = buildRunner(directory);
    await measureScenarios(frame, runner, directory);
    await measureGrowth(frame, runner, directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

type Times = Record<Verb, number[][]>;

/** One node for each contestant: its agent serves one network after the other. */
async function measureScenarios(frame: Frame, runner: string, directory: string): Promise<void> {
  await using node = CniNode.create();
  await node.start();
  using peer = referenceNode();
  for (const scenario of scenarios) {
    const contestants = [fairlead(scenario, node, directory)];
    if (hasReference()) contestants.push(reference(scenario, peer.namespace, directory));
    await measure(frame, scenario, runner, contestants);
  }
}

async function measure(
  frame: Frame,
  scenario: Scenario,
  runner: string,
  contestants: readonly Contestant[],
): Promise<void> {
  const rounds = frame.quick ? 1 : scenario.rounds;
  const times = new Map<Contestant['name'], Times>();
  for (const { name } of contestants) times.set(name, { ADD: [], DEL: [] });
  // The first round does not count. It makes bridges and chains, and warms up the caches of both: one pod after another,
  // for the reference's portmap fails where two make its chains at once.
  for (let round = -1; round < rounds; round += 1) {
    frame.progress(`${scenario.name}: round ${round + 1} of ${rounds}`);
    // Who begins changes from round to round.
    for (const contestant of round % 2 === 0 ? contestants : contestants.toReversed()) {
      const pods = frame.quick ? 10 : scenario.pods;
      const measured = await runPods(contestant, pods, runner, round < 0 ? 1 : scenario.threads);
      if (round >= 0) for (const verb of verbs) times.get(contestant.name)?.[verb].push(measured[verb]);
    }
  }
  report(frame, scenario, times);
}

function report(
  frame: Frame,
  { name, targets, p99Target }: Scenario,
  times: ReadonlyMap<Contestant['name'], Times>,
): void {
  const [ours, theirs] = [times.get('fairlead'), times.get('reference')];
  if (ours === undefined) return;
  for (const verb of verbs) {
    const our = frame.samples(`${verb}, ${name}: fairlead`, ours[verb]);
    if (theirs === undefined) continue;
    const their = frame.samples(`${verb}, ${name}: reference`, theirs[verb]);
    const target = targets?.[verb];
    frame.ratio(`${verb}, ${name}: reference / fairlead`, theirs[verb], ours[verb], target && { target });
    if (verb === 'ADD' && p99Target !== undefined) {
      frame.figure(`${verb}, ${name}: reference / fairlead, p99`, their.p99 / our.p99, 'x', p99Target);
    }
  }
}

/** ADD of every pod, then DEL of every pod: each contestant meets what it has left to the kernel itself. */
async function runPods(
  contestant: Contestant,
  count: number,
  runner: string,
  threads: number,
): Promise<Record<Verb, number[]>> {
  using pods = podNamespaces(count);
  return {
    ADD: await runVerb(contestant, 'ADD', pods.paths, runner, threads),
    DEL: await runVerb(contestant, 'DEL', pods.paths, runner, threads),
  };
}

async function runVerb(
  contestant: Contestant,
  verb: string,
  paths: readonly string[],
  runner: string,
  threads: number,
  firstIndex = 0,
): Promise<number[]> {
  const jobs = paths.map((path, index) => contestant.job(verb, firstIndex + index, path));
  await untilQuiet();
  const outcomes = await runJobs(runner, jobs, threads);
  const failed = outcomes.find(({ exitCode }) => exitCode !== 0);
  if (failed !== undefined) {
    throw new Error(`${verb} of ${contestant.name} failed with exit code ${failed.exitCode}`);
  }
  return outcomes.map(({ durationMs }) => durationMs);
}

/** What a pod costs on a node that has many, what the short verbs cost, and how long the daemon's loop stands still. */
async function measureGrowth(frame: Frame, runner: string, directory: string): Promise<void> {
  const count = frame.quick ? 100 : 1_000;
  const share = count / 10;
  frame.progress(`${count} pods on one node`);
  await using node = CniNode.create();
  await node.start({ measuresLoop: true });
  const contestant = fairlead(published, node, directory);
  using warm = podNamespaces(20);
  for (const verb of verbs) await runVerb(contestant, verb, warm.paths, runner, 1);
  using pods = podNamespaces(count);
  await node.takeLoopDelay();
  // In three parts, so that the first and the last meet a quiet node, not what the ADDs before them have left to do.
  const addOf = (from: number, to: number) =>
    runVerb(contestant, 'ADD', pods.paths.slice(from, to), runner, 1, from);
  const first = await addOf(0, share);
  await addOf(share, count - share);
  const last = await addOf(count - share, count);
  const delayMs = await node.takeLoopDelay();
  frame.samples(`ADD of the first ${share} of ${count} pods`, first);
  frame.samples(`ADD of the last ${share} of ${count} pods`, last);
  const growth = median(last) / median(first);
  frame.figure(`ADD, last / first of ${count} pods`, growth, 'x', { atMost: 1.5 });
  for (const verb of ['VERSION', 'STATUS']) {
    const some = pods.paths.slice(0, 100);
    const times = await runVerb(contestant, verb, some, runner, 1);
    frame.samples(`${verb}, with ${count} pods`, times, { target: { atMost: 2 } });
  }
  frame.figure(`longest turn of the loop, ${count} ADDs`, delayMs, 'ms', loopTarget);
  await runVerb(contestant, 'DEL', pods.paths, runner, 20);
  frame.figure(`longest turn of the loop, ${count} DELs`, await node.takeLoopDelay(), 'ms', loopTarget);
}
