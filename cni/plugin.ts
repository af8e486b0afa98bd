import { fstatSync, type Stats } from 'node:fs';
import type { AnswerAhead } from './attacher.ts';
import { Chain, type ChainOptions, type Made, type ResultAhead } from './chain.ts';
import { CniError, cniCode } from './error.ts';
import type { Fields } from './fields.ts';
import type { RequestFrame } from './frame.ts';
import { HostLocal } from './host-local.ts';
import type { KeptAddresses } from './kept-addresses.ts';
import { KeyedQueue } from './keyed-queue.ts';
import type { NodeNetwork } from './node-network.ts';
import { attachmentKey, type Part } from './part.ts';
import type { InterfaceNetwork, InterfacePlugin, ParsedPlugin } from './plugin-type.ts';
import { findPluginType, pluginTypes } from './plugin-types.ts';
import { type AttachmentRequest, ipamPlugin, parseRequest, type Request } from './request.ts';
import { renderError, renderResult, renderVersions } from './result.ts';
import { Upkeep, type UpkeepOptions } from './upkeep.ts';
import { newestVersion } from './version.ts';

export interface PluginOptions extends ChainOptions, Pick<UpkeepOptions, 'trouble'> {
  /** Undefined: not ready. */
  readonly network: () => NodeNetwork | undefined;
  /** Told of every part that a runtime has got. */
  readonly kept: Pick<KeptAddresses, 'note'>;
  /** Who serves the attachment where that is not on this host. */
  readonly elsewhere?: ((key: string) => Promise<Pick<Plugin, 'serve'>> | undefined) | undefined;
}

/** One call: what the shim sent, and the way back. */
export interface Call extends RequestFrame {
  /** The namespace that the shim runs in. */
  readonly ownNamespaceFd?: number | undefined;
  /** CNI_NETNS, if the shim could open it. */
  readonly podNamespaceFd?: number | undefined;
  /** Sends the answer; false when nobody is there any more to take it. */
  readonly answer: (exitCode: number, stdout: string) => boolean;
  /** Lets the thread that does the last work send an answer of success; {@link answer} follows all the same. */
  readonly openAhead?: () => StdoutAhead;
}

/** See {@link AnswerAhead}. */
export interface StdoutAhead extends Pick<AnswerAhead, 'reply'> {
  arm(stdout: string): void;
}

interface KnownConfig {
  readonly type: string;
  readonly plugin: ParsedPlugin;
  node: NodeNetwork | undefined;
  network: InterfaceNetwork | undefined;
}

/** The verbs. Calls for one attachment are served one after the other, all others at the same time. */
export class Plugin {
  readonly #options: PluginOptions;
  readonly #chain: Chain;
  readonly #hostLocal: HostLocal;
  readonly #upkeep: Upkeep;
  readonly #queue = new KeyedQueue();
  /** What a configuration means; the same text is the same object, unless it is one container's alone. */
  readonly #configs = new WeakMap<Fields, KnownConfig>();

  constructor(options: PluginOptions) {
    this.#options = options;
    this.#chain = new Chain(options);
    this.#hostLocal = new HostLocal(options);
    this.#upkeep = new Upkeep({
      ...options,
      hostLocal: this.#hostLocal,
      // What is being attached now is in no list of the runtime yet, and what is being detached goes anyway.
      remove: (key, parts) => this.remove(key, parts),
    });
  }

  /** Takes all parts of an attachment away, without a call; nothing happens while one for it is served. Throws CniError. */
  async remove(key: string, parts: readonly Part[]): Promise<void> {
    if (this.#queue.isBusy(key) || this.#queue.isBusy(addressKey(key))) return;
    await this.#queue.run(key, () => this.#chain.remove(parts, undefined, undefined));
  }

  /** Serves one call to its end, with its answer. `caller`: of the namespace that it comes from, if that is known. */
  async serve(call: Call, caller?: Stats): Promise<void> {
    const request = parseRequest(call.env, call.stdin);
    const version = 'cniVersion' in request ? request.cniVersion : newestVersion;
    try {
      if (request instanceof CniError) throw request;
      await this.#dispatch(request, call, caller);
    } catch (error) {
      call.answer(1, renderError(CniError.from(error), version));
    }
  }

  async #dispatch(request: Request, call: Call, caller: Stats | undefined): Promise<void> {
    switch (request.verb) {
      case 'VERSION':
        call.answer(0, renderVersions());
        return;
      case 'ADD':
        checkNamespaces(request, call, caller);
        return this.#queue.run(queueKey(request), () => this.#add(request, call));
      case 'DEL': {
        const podNamespaceFd = checkNamespaces(request, call, caller);
        const elsewhere = this.#options.elsewhere?.(attachmentKey(request));
        if (elsewhere !== undefined) return (await elsewhere).serve(call, caller);
        return this.#queue.run(queueKey(request), () => this.#del(request, { ...call, podNamespaceFd }));
      }
      case 'CHECK':
        checkNamespaces(request, call, caller);
        return this.#queue.run(queueKey(request), () => this.#check(request, call));
      case 'GC':
        await this.#upkeep.gc(request);
        call.answer(0, '');
        return;
      case 'STATUS':
        await this.#upkeep.status(request);
        call.answer(0, '');
    }
  }

  async #add(request: AttachmentRequest, call: Call): Promise<void> {
    this.#options.pass('add:begin');
    if (request.type === ipamPlugin) return this.#addAddresses(request, call);
    const { part, result } = await this.#make(request, call);
    const stdout = renderResult(result, request.cniVersion);
    // An answer that nobody takes is as good as no interface: the runtime will not know about it.
    if (stdout instanceof CniError || !call.answer(0, stdout)) {
      if (part !== undefined) await this.#chain.remove([part], call.podNamespaceFd, request.env);
    } else this.#options.kept.note(part, call.podNamespaceFd);
    this.#options.pass('add:answered');
    if (stdout instanceof CniError) throw stdout;
  }

  #make(request: AttachmentRequest, call: Call): Promise<Made> {
    const namespaceFd = call.podNamespaceFd ?? -1;
    const known = this.#known(request);
    const { plugin } = known;
    switch (plugin.kind) {
      case 'interface':
        return this.#chain.addInterface(
          request,
          namespaceFd,
          this.#network(known, plugin),
          openAhead(request, call),
        );
      case 'chained':
        return this.#chain.addChained(request, namespaceFd, plugin);
      case 'foreign':
        return this.#chain.addForeign(request, namespaceFd, plugin);
    }
  }

  async #addAddresses(request: AttachmentRequest, call: Call): Promise<void> {
    const ipam = await this.#hostLocal.add(request, call.podNamespaceFd);
    const stdout = renderResult({ interfaces: [], ...ipam }, request.cniVersion);
    if (stdout instanceof CniError || !call.answer(0, stdout)) await this.#hostLocal.del(request);
    if (stdout instanceof CniError) throw stdout;
  }

  /** Undoes what is recorded, whatever the configuration says now. */
  async #del(request: AttachmentRequest, call: Call): Promise<void> {
    this.#options.pass('del:begin');
    if (request.type === ipamPlugin) await this.#hostLocal.del(request);
    else {
      await this.#chain.removeFor(request, this.#partsToRemove(request), call.podNamespaceFd);
      await this.#delBefore(request);
    }
    await this.#undo(request, call.podNamespaceFd);
    call.answer(0, '');
    this.#options.pass('del:answered');
  }

  /** What is left of a pod that another program attached. Whatever comes of it, ours is gone. */
  async #delBefore(request: AttachmentRequest): Promise<void> {
    const { type, config, containerId } = request;
    const work = [
      this.#hostLocal.delBefore(request),
      pluginTypes.get(type)?.delBefore?.(config, containerId),
    ];
    for (const outcome of await Promise.allSettled(work)) {
      if (outcome.status === 'fulfilled') continue;
      const { message } = outcome.reason as Error;
      this.#options.log.warn({ type, containerId, error: message }, 'left of a pod from before');
    }
  }

  async #check(request: AttachmentRequest, call: Call): Promise<void> {
    if (request.type === ipamPlugin) await this.#hostLocal.check(request);
    else await this.#chain.check(request, call.podNamespaceFd ?? -1, this.#known(request).plugin);
    call.answer(0, '');
  }

  /** For types without rows. Whatever comes of it, the container ends. */
  async #undo({ type }: AttachmentRequest, namespaceFd: number | undefined): Promise<void> {
    const undo = pluginTypes.get(type)?.undo;
    if (undo === undefined || namespaceFd === undefined) return;
    await undo(namespaceFd).catch((error: Error) => {
      this.#options.log.warn({ type, error: error.message }, 'not undone inside the container');
    });
  }

  /** With the interface goes all that lies on it, such as the part of a plugin that has left the configuration. */
  #partsToRemove(request: AttachmentRequest): readonly Part[] {
    const parts = this.#options.leases.get(attachmentKey(request));
    const own = parts.filter(({ type }) => type === request.type);
    const isInterface = pluginTypes.get(request.type)?.kind === 'interface';
    return isInterface || own.some(({ rows }) => rows.attachment !== undefined) ? parts : own;
  }

  #network(known: KnownConfig, plugin: InterfacePlugin): InterfaceNetwork {
    const node = this.#options.network();
    if (known.network === undefined || known.node !== node) {
      known.network = orThrow(plugin.network(node));
      known.node = node;
    }
    return known.network;
  }

  #known(request: AttachmentRequest): KnownConfig {
    const { type, config, configText, cniVersion, args } = request;
    const found = orThrow(findPluginType(type));
    const isOwn = found.readsFiles || args.ip !== undefined || args.mac !== undefined;
    const there = isOwn ? undefined : this.#configs.get(config);
    if (there?.type === type) return there;
    const plugin = orThrow(found.parse(config, { cniVersion, args, configText }));
    const known = { type, plugin, node: undefined, network: undefined };
    if (!isOwn) this.#configs.set(config, known);
    return known;
  }
}

/** A program that we call may itself call us, by another name, for the addresses of the same attachment. */
function queueKey(request: AttachmentRequest): string {
  const key = attachmentKey(request);
  return request.type === ipamPlugin ? addressKey(key) : key;
}

const addressKey = (key: string) => `${ipamPlugin} ${key}`;

function openAhead({ cniVersion }: AttachmentRequest, call: Call): ResultAhead | undefined {
  const ahead = call.openAhead?.();
  if (ahead === undefined) return undefined;
  return {
    reply: ahead.reply,
    arm(result) {
      const stdout = renderResult(result, cniVersion);
      // What cannot be told is undone.
      if (!(stdout instanceof CniError)) ahead.arm(stdout);
    },
  };
}

function orThrow<T>(value: T | CniError): T {
  if (value instanceof CniError) throw value;
  return value;
}

/**
 * The pod's namespace; undefined where there is none any more, which only DEL may find: the file that it was mounted on
 * may be left. A pod in the node's own namespace would lose the node's interfaces to what follows.
 */
function checkNamespaces(
  request: AttachmentRequest,
  { ownNamespaceFd, podNamespaceFd }: Call,
  caller: Stats | undefined,
): number | undefined {
  const { verb, netns, netnsOverride } = request;
  const quoted = JSON.stringify(netns);
  const refuse = (message: string) => new CniError(cniCode.invalidNamespace, message, netns);
  if (podNamespaceFd === undefined) {
    if (verb !== 'DEL') throw refuse(`failed to open netns ${quoted}: no such namespace`);
    return undefined;
  }
  const own = caller ?? fstatSync(ownNamespaceFd ?? podNamespaceFd);
  const pod = fstatSync(podNamespaceFd);
  // Every namespace lies in the kernel's one file system of namespaces.
  if (own.dev !== pod.dev) {
    if (verb !== 'DEL') throw refuse(`failed to open netns ${quoted}: not a network namespace`);
    return undefined;
  }
  if (own.ino !== pod.ino || netnsOverride) return podNamespaceFd;
  throw refuse("plugin's netns and netns from CNI_NETNS should not be the same");
}
