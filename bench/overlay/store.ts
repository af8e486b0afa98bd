import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Lab } from '../../cli/cluster/lab.ts';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { EtcdServer } from '../../test/daemon/etcd-server.ts';
import { Command } from './agent.ts';
import { type Backend, network } from './peers.ts';
import type { Done, Order, WriterArguments } from './writer.ts';

const program = fileURLToPath(new URL('./writer.ts', import.meta.url));
const apiPort = 6443;

/** A real store on the lab's control machine, and somebody who writes the other nodes' leases there. */
export class Store implements AsyncDisposable {
  /** What an agent is told to find it. */
  readonly agentOptions: readonly string[];
  readonly #writer: ChildProcess;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    lab: Lab,
    agentOptions: readonly string[],
    words: WriterArguments,
    stack: AsyncDisposableStack,
  ) {
    this.agentOptions = agentOptions;
    const [command, args] = inNamespace(lab.control.namespace, [
      process.execPath,
      program,
      JSON.stringify(words),
    ]);
    this.#writer = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#stack = stack;
  }

  static async open(kind: WriterArguments['kind'], lab: Lab, backend: Backend): Promise<Store> {
    await using stack = new AsyncDisposableStack();
    const netConfig = ['--cluster-cidr', network, '--backend', backend];
    const [host] = lab.control.addresses;
    if (kind === 'etcd') {
      const etcd = stack.use(await EtcdServer.start({ host, namespace: lab.control.namespace }));
      const options = ['--etcd-endpoints', etcd.endpoint, ...netConfig];
      return new Store(lab, options, { kind, url: etcd.endpoint, backend }, stack.move());
    }
    const stateDir = `${lab.directory}/control-${backend}`;
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    const listen = ['--listen', `${host}:${apiPort}`, '--cluster-cidr', network, '--log-level', 'info'];
    const server = stack.use(new Command(lab.control, ['controlplane', '--state-dir', stateDir, ...listen]));
    await server.saidMs('serving');
    const url = `http://${host}:${apiPort}`;
    const options = ['--api-server', url, '--token-file', `${stateDir}/token`, '--register-node'];
    const token = readFileSync(`${stateDir}/token`, 'utf8').trim();
    return new Store(lab, [...options, ...netConfig], { kind, url, token, backend }, stack.move());
  }

  /** When the first of it was sent, by `process.hrtime`, after the store has taken all. */
  async write(order: Order): Promise<bigint> {
    this.#writer.send(order);
    const [{ sentNs, error }] = (await once(this.#writer, 'message')) as [Done];
    if (error !== undefined) throw new Error(`the store's writer: ${error}`);
    return BigInt(sentNs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = once(this.#writer, 'exit');
    this.#writer.kill('SIGKILL');
    await gone;
    await this.#stack.disposeAsync();
  }
}
