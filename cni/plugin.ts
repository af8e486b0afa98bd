import { fstatSync } from 'node:fs';
import { applyChanges } from '../core/reconcile.ts';
import type { Change } from '../core/rows.ts';
import type { AttachmentRow } from '../kernel/attachment.ts';
import type { AttachmentTable } from '../kernel/attachment-table.ts';
import { KernelError } from '../kernel/errors.ts';
import {
  type Attachment,
  type AttachmentNetwork,
  attachmentKey,
  planAttachment,
  planNetwork,
  planResult,
} from './attachment.ts';
import type { Bridges } from './bridge.ts';
import { type NetworkConfig, parseNetworkConfig } from './config.ts';
import { CniError, cniCode } from './error.ts';
import type { RequestFrame } from './frame.ts';
import type { GivenAddress } from './ipam.ts';
import { KeyedQueue } from './keyed-queue.ts';
import type { Leases } from './leases.ts';
import type { NodeNetwork } from './node-network.ts';
import { formatRangeSet } from './ranges.ts';
import { type AttachmentRequest, parseRequest, type Request } from './request.ts';
import { renderError, renderResult, renderVersions } from './result.ts';
import { newestVersion } from './version.ts';

/** Places where a test may stop the process, in the order in which they are passed. */
export const faultPoints = [
  'add:begin',
  'add:allocated',
  'add:begun',
  'add:recorded',
  'add:made',
  'add:answered',
  'del:begin',
  'del:quiesced',
  'del:released',
  'del:answered',
] as const;
export type FaultPoint = (typeof faultPoints)[number];

export interface PluginOptions {
  readonly table: AttachmentTable;
  readonly bridges: Bridges;
  readonly leases: Leases;
  /** Undefined: not ready. */
  readonly network: () => NodeNetwork | undefined;
  /** Only for tests. */
  readonly onFaultPoint?: ((point: FaultPoint) => void) | undefined;
}

/** One call: what the shim sent, and the way back. */
export interface Call extends RequestFrame {
  /** The namespace that the shim runs in. */
  readonly ownNamespaceFd?: number | undefined;
  /** CNI_NETNS, if the shim could open it. */
  readonly podNamespaceFd?: number | undefined;
  /** Sends the answer; false when nobody is there any more to take it. */
  readonly answer: (exitCode: number, stdout: string) => boolean;
}

/** Configurations and what they mean are kept for this many different texts. */
const configsMax = 64;

interface KnownConfig {
  readonly config: NetworkConfig;
  node: NodeNetwork | undefined;
  network: AttachmentNetwork | undefined;
}

/** The verbs, over the rows of attachments that are wanted ({@link Leases}) and those there (the table). */
export class Plugin {
  readonly #options: PluginOptions;
  readonly #queue = new KeyedQueue();
  readonly #configs = new Map<string, KnownConfig>();

  constructor(options: PluginOptions) {
    this.#options = options;
  }

  /** Serves one call to its end, with its answer. */
  async serve(call: Call): Promise<void> {
    const request = parseRequest(call.env, call.stdin);
    const version = 'cniVersion' in request ? request.cniVersion : newestVersion;
    try {
      if (request instanceof CniError) throw request;
      await this.#dispatch(request, call);
    } catch (error) {
      call.answer(1, renderError(CniError.from(error), version));
    }
  }

  async #dispatch(request: Request, call: Call): Promise<void> {
    switch (request.verb) {
      case 'VERSION':
        call.answer(0, renderVersions());
        return;
      case 'ADD':
        checkNamespaces(request, call);
        return this.#queue.run(attachmentKey(request), () => this.#add(request, call));
      case 'DEL':
        checkNamespaces(request, call);
        return this.#queue.run(attachmentKey(request), () => this.#del(request, call));
      default:
        throw new CniError(cniCode.internal, `${request.verb} is not implemented`);
    }
  }

  /** An answer that nobody takes is as good as no interface: the runtime will not know about it. */
  async #add(request: AttachmentRequest, call: Call): Promise<void> {
    this.#pass('add:begin');
    const network = this.#network(request);
    const key = attachmentKey(request);
    await this.#makeWay(key);
    const ready = this.#options.bridges.ensure(network);
    if (ready !== true) await ready;
    const addresses = this.#allocate(key, network);
    const attachment = planAttachment({ id: request, sandbox: request.netns }, network, addresses);
    await this.#attach(attachment, network, call.podNamespaceFd ?? -1);
    this.#pass('add:made');
    const stdout = renderResult(planResult(attachment, addresses, network), request.cniVersion);
    if (stdout instanceof CniError || !call.answer(0, stdout)) await this.#detach(attachment);
    this.#pass('add:answered');
    if (stdout instanceof CniError) throw stdout;
  }

  async #del(request: AttachmentRequest, call: Call): Promise<void> {
    this.#pass('del:begin');
    const attachment = this.#options.leases.get(attachmentKey(request));
    if (attachment !== undefined) await this.#detach(attachment);
    call.answer(0, '');
    this.#pass('del:answered');
  }

  #network({ config, configText }: AttachmentRequest): AttachmentNetwork {
    const node = this.#options.network();
    const known = this.#configs.get(configText) ?? this.#learn(configText, valueOf(parseNetworkConfig(config)));
    if (known.network === undefined || known.node !== node) {
      known.network = valueOf(planNetwork(known.config, node));
      known.node = node;
    }
    return known.network;
  }

  #learn(text: string, config: NetworkConfig): KnownConfig {
    const known = { config, node: undefined, network: undefined };
    const [oldest] = this.#configs.keys();
    if (this.#configs.size >= configsMax && oldest !== undefined) this.#configs.delete(oldest);
    this.#configs.set(text, known);
    return known;
  }

  /** An attachment of that key may be left from a runtime that forgot it; if it still works, ADD is refused. */
  async #makeWay(key: string): Promise<void> {
    const { leases, table } = this.#options;
    const there = leases.get(key);
    if (there === undefined) return;
    const actual = (await table.read()).get(there.row.hostName);
    if (actual?.bridge !== undefined) throw interfaceExists(there.ifname, there.row.pod?.sandbox ?? '');
    await this.#detach(there);
  }

  #allocate(key: string, { rangeSets }: AttachmentNetwork): readonly GivenAddress[] {
    const addresses = this.#options.leases.allocate(key, rangeSets);
    if ('exhausted' in addresses) {
      const range = formatRangeSet(addresses.exhausted);
      throw new CniError(cniCode.tryAgain, `no IP addresses available in range set: ${range}`);
    }
    this.#pass('add:allocated');
    return addresses;
  }

  /** The journal is written while the kernel works: a pair without a lease is removed by the next daemon. */
  async #attach(attachment: Attachment, network: AttachmentNetwork, namespaceFd: number): Promise<void> {
    const { leases, bridges } = this.#options;
    const key = attachmentKey(attachment);
    const making = this.#make(attachment, namespaceFd);
    this.#pass('add:begun');
    const unrecorded = attempt(() => leases.record(attachment));
    this.#pass('add:recorded');
    let error = await making;
    if (error instanceof KernelError && error.code === 'ENODEV') {
      bridges.forget(network.bridge);
      error = await this.#makeAgain(attachment, network, namespaceFd);
    }
    if (error !== undefined) {
      leases.release(key);
      throw attachError(error, attachment);
    }
    if (unrecorded !== undefined) {
      await this.#detach(attachment);
      throw new CniError(cniCode.ioFailure, `failed to record the lease: ${unrecorded.message}`);
    }
  }

  async #makeAgain(attachment: Attachment, network: AttachmentNetwork, fd: number): Promise<Error | undefined> {
    try {
      await this.#options.bridges.ensure(network);
      return await this.#make(attachment, fd);
    } catch (error) {
      return error as Error;
    }
  }

  #make({ row }: Attachment, namespaceFd: number): Promise<Error | undefined> {
    const pod = row.pod === undefined ? undefined : { ...row.pod, namespaceFd };
    return this.#write({ kind: 'create', key: row.hostName, wanted: { ...row, pod } });
  }

  /** The addresses come back only when no packet can reach the pod by them any more. */
  async #detach(attachment: Attachment): Promise<void> {
    const { row } = attachment;
    const error = await this.#write({ kind: 'delete', key: row.hostName, actual: row });
    if (error !== undefined) throw new CniError(cniCode.ioFailure, `failed to detach: ${error.message}`);
    this.#pass('del:quiesced');
    this.#options.leases.release(attachmentKey(attachment));
    this.#pass('del:released');
  }

  async #write(change: Change<string, AttachmentRow>): Promise<Error | undefined> {
    const { table } = this.#options;
    const changes = [change] as readonly Change<unknown, unknown>[];
    try {
      const { failures } = await applyChanges([{ layer: { table: table as never }, changes }]);
      return failures[0]?.error;
    } catch (error) {
      return error as Error;
    }
  }

  #pass(point: FaultPoint): void {
    this.#options.onFaultPoint?.(point);
  }
}

function valueOf<T>(value: T | CniError): T {
  if (value instanceof CniError) throw value;
  return value;
}

function attempt(action: () => void): Error | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

/** A pod in the node's own namespace would lose the node's interfaces to what follows. */
function checkNamespaces(request: AttachmentRequest, { ownNamespaceFd, podNamespaceFd }: Call): void {
  const { verb, netns, netnsOverride } = request;
  if (podNamespaceFd === undefined) {
    if (verb === 'DEL') return;
    throw new CniError(cniCode.invalidNamespace, `failed to open netns ${JSON.stringify(netns)}: no such namespace`, netns);
  }
  const own = ownNamespaceFd === undefined ? undefined : fstatSync(ownNamespaceFd);
  const pod = fstatSync(podNamespaceFd);
  if (own !== undefined && own.dev !== pod.dev) {
    if (verb === 'DEL') return;
    throw new CniError(cniCode.invalidNamespace, `${JSON.stringify(netns)} is not a network namespace`, netns);
  }
  if (own?.ino !== pod.ino || netnsOverride) return;
  const message = "plugin's netns and netns from CNI_NETNS should not be the same";
  throw new CniError(cniCode.invalidNamespace, message, netns);
}

function attachError(error: Error, { ifname, row }: Attachment): CniError {
  if (error instanceof CniError) return error;
  const sandbox = row.pod?.sandbox ?? '';
  if (error instanceof KernelError && error.code === 'EEXIST') return interfaceExists(ifname, sandbox);
  return new CniError(cniCode.internal, `failed to attach ${ifname} in ${sandbox}: ${error.message}`);
}

function interfaceExists(ifname: string, sandbox: string): CniError {
  const message = `CNI_IFNAME: interface ${JSON.stringify(ifname)} already exists in ${JSON.stringify(sandbox)}`;
  return new CniError(cniCode.invalidEnvironment, message, ifname);
}
