import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createNamespace, deleteNamespace } from '../kernel/netns.ts';
import { CniNode } from '../test/cni/node.ts';
import { buildRunner, type Job, runJobs } from './cni/runner.ts';
import type { Frame } from './frame.ts';

export const description = 'CNI ADD and DEL, fork to exit, against the reference plugins bridge + host-local';

const pluginDirectory = '/usr/lib/cni';
const shim = fileURLToPath(new URL('../.cache/native/fairlead-cni', import.meta.url));

/** Twenty at a time is what a node gets when it is drained or started. */
const manyThreads = 20;
const verbs = ['ADD', 'DEL'] as const;
type Verb = (typeof verbs)[number];

interface Scenario {
  readonly name: string;
  readonly ipMasq: boolean;
  readonly threads: number;
  /** Of the ratio of ADD. */
  readonly target?: number;
}

const scenarios: readonly Scenario[] = [
  { name: 'bridge', ipMasq: false, threads: 1, target: 7 },
  { name: 'bridge, masquerade', ipMasq: true, threads: 1, target: 18 },
  { name: `bridge, ${manyThreads} at a time`, ipMasq: false, threads: manyThreads },
];

/** A runtime's side of one plugin: where it runs and what it is told. */
interface Contestant {
  readonly name: 'reference' | 'fairlead';
  readonly namespace: string;
  readonly program: string;
  readonly input: string;
  readonly env: Readonly<Record<string, string>>;
}

export async function run(frame: Frame): Promise<void> {
  if (!hasReference()) {
    frame.missing('reference plugins', `no ${pluginDirectory}/bridge (Debian: containernetworking-plugins)`);
  }
  const directory = mkdtempSync('/run/fairlead-bench-');
  try {
    const runner = buildRunner(directory);
    for (const scenario of scenarios) await measure(frame, scenario, runner, directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function hasReference(): boolean {
  return existsSync(join(pluginDirectory, 'bridge'));
}

async function measure(frame: Frame, scenario: Scenario, runner: string, directory: string): Promise<void> {
  const rounds = frame.quick ? 1 : 5;
  const times: Record<string, Record<Verb, number[][]>> = {};
  await using node = CniNode.create();
  await node.start();
  using peer = referenceNode();
  const contestants = [fairlead(scenario, node, directory)];
  if (hasReference()) contestants.push(reference(scenario, peer.namespace, directory));
  for (const { name } of contestants) times[name] = { ADD: [], DEL: [] };
  // The first round makes bridges and chains, and warms up the caches of both.
  for (let round = -1; round < rounds; round += 1) {
    frame.progress(`${scenario.name}: round ${round + 1} of ${rounds}`);
    // Who begins changes from round to round.
    for (const contestant of round % 2 === 0 ? contestants : contestants.toReversed()) {
      const measured = await runPods(contestant, frame.quick ? 10 : 100, runner, scenario.threads);
      if (round >= 0) for (const verb of verbs) times[contestant.name]?.[verb].push(measured[verb]);
    }
  }
  report(frame, scenario, times);
}

function report(
  frame: Frame,
  { name, target }: Scenario,
  times: Record<string, Record<Verb, number[][]>>,
): void {
  const { reference: theirs, fairlead: ours } = times;
  for (const verb of verbs) {
    if (ours !== undefined) frame.samples(`${verb}, ${name}: fairlead`, ours[verb]);
    if (ours === undefined || theirs === undefined) continue;
    frame.samples(`${verb}, ${name}: reference`, theirs[verb]);
    const options = verb === 'ADD' && target !== undefined ? { target: { atLeast: target } } : {};
    frame.ratio(`${verb}, ${name}: reference / fairlead`, theirs[verb], ours[verb], options);
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
  const times: Record<Verb, number[]> = { ADD: [], DEL: [] };
  for (const verb of verbs) {
    const jobs = pods.paths.map((path) => jobOf(verb, contestant, path));
    for (const { durationMs, exitCode } of await runJobs(runner, jobs, threads)) {
      if (exitCode !== 0) throw new Error(`${verb} of ${contestant.name} failed with exit code ${exitCode}`);
      times[verb].push(durationMs);
    }
  }
  return times;
}

function jobOf(verb: Verb, { namespace, program, input, env }: Contestant, path: string): Job {
  const containerId = path.slice(path.lastIndexOf('/') + 1);
  const variables = {
    CNI_COMMAND: verb,
    CNI_CONTAINERID: containerId,
    CNI_NETNS: path,
    CNI_IFNAME: 'eth0',
    CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=${containerId}`,
    CNI_PATH: pluginDirectory,
    PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
  };
  return { namespace, program, input, env: { ...variables, ...env } };
}

function reference({ ipMasq }: Scenario, namespace: string, directory: string): Contestant {
  const config = {
    cniVersion: '1.0.0',
    name: 'reference',
    type: 'bridge',
    bridge: 'cni0',
    isGateway: true,
    ipMasq,
    // On the same kind of file system as our journal.
    ipam: { ...hostLocal('10.77.0.0/16'), dataDir: join(directory, 'networks') },
  };
  const input = writeInput(directory, 'reference.json', config);
  return { name: 'reference', namespace, program: join(pluginDirectory, 'bridge'), input, env: {} };
}

function fairlead({ ipMasq }: Scenario, node: CniNode, directory: string): Contestant {
  // One rule for all pods; the node daemon has it in place before any pod comes.
  if (ipMasq) inNamespace(node.namespace, '/usr/sbin/nft', masqueradeRule);
  const config = {
    cniVersion: '1.0.0',
    name: 'fairlead',
    type: 'fairlead',
    bridge: 'cni0',
    isGateway: true,
    ipMasq,
    ipam: hostLocal('10.78.0.0/16'),
  };
  const input = writeInput(directory, 'fairlead.json', config);
  return {
    name: 'fairlead',
    namespace: node.namespace,
    program: shim,
    input,
    env: { FAIRLEAD_SOCKET: node.socketPath },
  };
}

const masqueradeRule = `table ip fairlead {
  chain postrouting {
    type nat hook postrouting priority srcnat
    ip saddr 10.78.0.0/16 ip daddr != 10.78.0.0/16 ip daddr != 224.0.0.0/4 masquerade
  }
}`;

function hostLocal(subnet: string) {
  return { type: 'host-local', ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] };
}

function writeInput(directory: string, name: string, config: object): string {
  const path = join(directory, name);
  writeFileSync(path, JSON.stringify(config));
  return path;
}

function inNamespace(namespace: string, program: string, input: string): void {
  execFileSync('nsenter', [`--net=${namespace}`, program, '-f', '-'], { input });
}

/** A namespace for the reference plugins to make their bridge in. */
function referenceNode(): Disposable & { readonly namespace: string } {
  const namespace = namespacePath();
  createNamespace(namespace);
  return { namespace, [Symbol.dispose]: () => deleteNamespace(namespace) };
}

function podNamespaces(count: number): Disposable & { readonly paths: readonly string[] } {
  const paths = Array.from({ length: count }, namespacePath);
  for (const path of paths) createNamespace(path);
  return { paths, [Symbol.dispose]: () => paths.forEach(deleteNamespace) };
}

function namespacePath(): string {
  return `/run/netns/bench-${randomBytes(6).toString('hex')}`;
}
