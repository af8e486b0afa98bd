import { fstatSync } from 'node:fs';
import { Attacher, type AttacherOptions } from './attacher.ts';
import { type AttachmentNetwork, attachmentKey, planNetwork, planResult } from './attachment.ts';
import { type NetworkConfig, parseNetworkConfig } from './config.ts';
import { CniError, cniCode } from './error.ts';
import type { RequestFrame } from './frame.ts';
import { KeyedQueue } from './keyed-queue.ts';
import type { NodeNetwork } from './node-network.ts';
import { type AttachmentRequest, parseRequest, type Request } from './request.ts';
import { renderError, renderResult, renderVersions } from './result.ts';
import { newestVersion } from './version.ts';

export interface PluginOptions extends AttacherOptions {
  /** Undefined: not ready. */
  readonly network: () => NodeNetwork | undefined;
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

/** The verbs. Calls for one attachment are served one after the other, all others at the same time. */
export class Plugin {
  readonly #options: PluginOptions;
  readonly #attacher: Attacher;
  readonly #queue = new KeyedQueue();
  readonly #configs = new Map<string, KnownConfig>();

  constructor(options: PluginOptions) {
    this.#options = options;
    this.#attacher = new Attacher(options);
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
        throw new CniError(cniCode.internal, `${request.verb} is not served yet`);
    }
  }

  /** An answer that nobody takes is as good as no interface: the runtime will not know about it. */
  async #add(request: AttachmentRequest, call: Call): Promise<void> {
    const { pass } = this.#options;
    pass('add:begin');
    const network = this.#network(request);
    const sandbox = { path: request.netns, fd: call.podNamespaceFd ?? -1 };
    const { attachment, addresses } = await this.#attacher.attach(request, sandbox, network);
    const stdout = renderResult(planResult(attachment, addresses, network), request.cniVersion);
    if (stdout instanceof CniError || !call.answer(0, stdout)) await this.#attacher.detach(attachment);
    pass('add:answered');
    if (stdout instanceof CniError) throw stdout;
  }

  async #del(request: AttachmentRequest, call: Call): Promise<void> {
    const { pass, leases } = this.#options;
    pass('del:begin');
    const attachment = leases.get(attachmentKey(request));
    if (attachment !== undefined) await this.#attacher.detach(attachment);
    call.answer(0, '');
    pass('del:answered');
  }

  #network({ config, configText }: AttachmentRequest): AttachmentNetwork {
    const node = this.#options.network();
    const known =
      this.#configs.get(configText) ?? this.#learn(configText, orThrow(parseNetworkConfig(config)));
    if (known.network === undefined || known.node !== node) {
      known.network = orThrow(planNetwork(known.config, node));
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
}

function orThrow<T>(value: T | CniError): T {
  if (value instanceof CniError) throw value;
  return value;
}

/** A pod in the node's own namespace would lose the node's interfaces to what follows. */
function checkNamespaces(request: AttachmentRequest, { ownNamespaceFd, podNamespaceFd }: Call): void {
  const { verb, netns, netnsOverride } = request;
  const quoted = JSON.stringify(netns);
  const refuse = (message: string) => new CniError(cniCode.invalidNamespace, message, netns);
  if (podNamespaceFd === undefined) {
    if (verb !== 'DEL') throw refuse(`failed to open netns ${quoted}: no such namespace`);
    return;
  }
  const own = fstatSync(ownNamespaceFd ?? podNamespaceFd);
  const pod = fstatSync(podNamespaceFd);
  // Every namespace lies in the kernel's one file system of namespaces.
  if (own.dev !== pod.dev) {
    if (verb !== 'DEL') throw refuse(`failed to open netns ${quoted}: not a network namespace`);
    return;
  }
  if (own.ino !== pod.ino || netnsOverride) return;
  throw refuse("plugin's netns and netns from CNI_NETNS should not be the same");
}
