import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { askStatus } from '../node-status.ts';
import { outputOption, wholeNumber } from '../options.ts';
import { untilStopped } from '../signals.ts';
import { BACKENDS, type Backend, backendProblem } from './backends.ts';
import { Cluster, clusterPaths } from './cluster.ts';
import { CLUSTERS_DIRECTORY, directoryOf, removeLab } from './lab.ts';
import { MAX_NODES, planTopology } from './topology.ts';

/** What is kept of a cluster for the later commands. */
interface ClusterRecord {
  readonly name: string;
  readonly nodes: number;
  readonly backend: Backend;
}

const DEFAULT_NAME = 'default';
const recordPath = (name: string) => `${directoryOf(name)}/cluster.json`;

export function clusterCommand(): Command {
  const name = () => new Option('--name <name>', 'lower-case letters and digits').default(DEFAULT_NAME);
  const command = new Command('cluster').description('A whole cluster in network namespaces on this machine');
  command
    .command('up')
    .description('Make machines, start the control plane and the nodes, wait until they are ready')
    .addOption(name())
    .option('--nodes <count>', 'how many nodes', wholeNumber(1, MAX_NODES), 3)
    .addOption(new Option('--backend <type>', 'how nodes are connected').choices(BACKENDS).default('vxlan'))
    .addOption(outputOption())
    .action((options) => up(options));
  command
    .command('down')
    .description('Remove the cluster without a trace')
    .addOption(name())
    .action(({ name }) => down(name));
  command
    .command('status')
    .description('Show the clusters on this machine, or one with its nodes')
    .addOption(new Option('--name <name>', 'one cluster; without it, all'))
    .addOption(outputOption())
    .action((options) => status(options));
  return command;
}

async function up({ name, nodes, backend, output }: ClusterRecord & { output: string }): Promise<void> {
  planTopology(name, nodes); // refuses names that cannot be, before anything is looked at
  if (existsSync(recordPath(name))) {
    throw new Error(`cluster ${name} is up already; remove it with: fairlead cluster down --name ${name}`);
  }
  const problem = await backendProblem(backend);
  if (problem !== undefined) throw new Error(problem);
  await removeLab(name); // what an interrupted start may have left
  const interrupt = new AbortController();
  void untilStopped().then(() => interrupt.abort(new Error('interrupted; nothing was left behind')));
  const start = performance.now();
  const progress = (text: string) => process.stderr.write(`  ${text}\n`);
  const cluster = await Cluster.start({
    name,
    nodes,
    backend,
    detached: true,
    progress,
    signal: interrupt.signal,
  }).catch((error) => {
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  });
  const record = JSON.stringify({ name, nodes, backend } satisfies ClusterRecord);
  writeFileSync(recordPath(name), record, { mode: 0o600 });
  cluster.lab.keep();
  const facts = {
    name,
    seconds: Number(((performance.now() - start) / 1000).toFixed(1)),
    kubeconfig: cluster.paths.kubeconfig,
    nodes: cluster.lab.nodes.map((node) => ({
      name: node.name,
      namespace: node.namespace,
      addresses: node.addresses,
    })),
  };
  process.stdout.write(output === 'json' ? `${JSON.stringify(facts, null, 2)}\n` : renderUp(facts));
}

function renderUp({
  name,
  seconds,
  kubeconfig,
  nodes,
}: {
  name: string;
  seconds: number;
  kubeconfig: string;
  nodes: { name: string; namespace: string; addresses: readonly string[] }[];
}): string {
  return [
    `Cluster ${name} is up after ${seconds} s.`,
    ...nodes.map((node) => `  ${node.name}  ${node.addresses.join('  ')}  ip netns exec ${node.namespace} …`),
    '',
    `  export KUBECONFIG=${kubeconfig}`,
    `  fairlead cluster down --name ${name}`,
    '',
  ].join('\n');
}

async function down(name: string): Promise<void> {
  const known = existsSync(directoryOf(name));
  await removeLab(name);
  process.stderr.write(known ? `cluster ${name} is removed\n` : `there is no cluster ${name}\n`);
}

async function status({ name, output }: { name?: string; output: string }): Promise<void> {
  const names = name === undefined ? clusterNames() : [name];
  const clusters = await Promise.all(names.map(describeCluster));
  if (output === 'json') process.stdout.write(`${JSON.stringify(clusters, null, 2)}\n`);
  else if (clusters.length === 0)
    process.stdout.write('no cluster is up; make one with: fairlead cluster up\n');
  else process.stdout.write(clusters.map(renderCluster).join('\n'));
}

function clusterNames(): string[] {
  if (!existsSync(CLUSTERS_DIRECTORY)) return [];
  return readdirSync(CLUSTERS_DIRECTORY).filter((name) => existsSync(recordPath(name)));
}

async function describeCluster(name: string) {
  if (!existsSync(recordPath(name)))
    throw new Error(`there is no cluster ${name}; see: fairlead cluster status`);
  const record = readRecord(name);
  const paths = clusterPaths(directoryOf(name));
  const machines = planTopology(name, record.nodes).machines.filter((machine) => machine.role === 'node');
  const nodes = await Promise.all(
    machines.map(async (machine) => ({
      name: machine.name,
      addresses: machine.addresses,
      status: (await askStatus(paths.statusSocket(machine.name))) ?? null,
    })),
  );
  return { ...record, kubeconfig: paths.kubeconfig, nodes };
}

function readRecord(name: string): ClusterRecord {
  try {
    const { nodes, backend } = JSON.parse(readFileSync(recordPath(name), 'utf8')) as ClusterRecord;
    planTopology(name, nodes);
    return { name, nodes, backend };
  } catch (error) {
    const message = `${recordPath(name)} cannot be read: ${(error as Error).message}`;
    throw new Error(`${message}; remove the cluster with: fairlead cluster down --name ${name}`);
  }
}

function renderCluster(cluster: Awaited<ReturnType<typeof describeCluster>>): string {
  const nodes = cluster.nodes.map(({ name, addresses, status }) => {
    const state = status === null ? 'does not answer' : status.ready ? 'ready' : 'not ready';
    return `  ${name}  ${state}  ${addresses.join('  ')}`;
  });
  return [`${cluster.name}  ${cluster.backend}  ${cluster.kubeconfig}`, ...nodes, ''].join('\n');
}
