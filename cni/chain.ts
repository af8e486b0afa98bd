import { hash } from 'node:crypto';
import { Addressing, type AddressingOptions } from './addressing.ts';
import { type AnswerAhead, Attacher, type AttacherOptions, type Begun, interfaceExists } from './attacher.ts';
import { checkChained, checkPart } from './check.ts';
import { foreignOf } from './configured-foreign.ts';
import { CniError } from './error.ts';
import { attachmentKey, isEmpty, joinRows, type Part } from './part.ts';
import type {
  ChainedNode,
  ChainedPlugin,
  ForeignPlugin,
  InterfaceNetwork,
  ParsedPlugin,
} from './plugin-type.ts';
import { parsePrevResult } from './prev-result.ts';
import type { AttachmentRequest, Environment } from './request.ts';
import type { Result } from './result.ts';
import { sandboxOf } from './sandbox.ts';

export interface ChainOptions extends AttacherOptions, AddressingOptions {
  readonly node: ChainedNode & {
    /** Whether the namespace has a link of this name. */
    hasLink(namespaceFd: number, name: string): Promise<boolean>;
  };
}

/** See {@link AnswerAhead}. */
export interface ResultAhead extends Pick<AnswerAhead, 'reply'> {
  arm(result: Result): void;
}

/** What an ADD has made. */
export interface Made {
  /** Undefined: no rows. */
  readonly part?: Part;
  readonly result: Result;
}

/**
 * What the plugins of a chain do one after the other for one attachment. One call at a time for one attachment; the
 * caller sees to that. Everything here throws CniError.
 */
export class Chain {
  readonly #options: ChainOptions;
  readonly #attacher: Attacher;
  readonly #addressing: Addressing;

  constructor(options: ChainOptions) {
    this.#options = options;
    this.#attacher = new Attacher(options);
    this.#addressing = new Addressing(options);
  }

  async addInterface(
    request: AttachmentRequest,
    namespaceFd: number,
    network: InterfaceNetwork,
    ahead?: ResultAhead,
  ): Promise<Made> {
    const { leases, bridges, pass } = this.#options;
    const { args, netns: sandbox } = request;
    const id = idOf(request);
    if (leases.get(attachmentKey(id)).length > 0) await this.#makeWay(request, namespaceFd);
    const acquiring = this.#addressing.acquire(request, network.ipam);
    const acquired = acquiring instanceof Promise ? await acquiring : acquiring;
    pass('add:allocated');
    let isMaking = false;
    let begun: Begun | undefined;
    try {
      const pair = network.plan({ id, sandbox, args, ipam: acquired.ipam });
      if (pair instanceof CniError) throw pair;
      const { bridge } = pair;
      const ready = bridge === undefined || bridges.ensure(bridge);
      if (ready !== true) await ready;
      begun = pair.attachment && this.#attacher.begin(pair.attachment, namespaceFd);
      const planned = pair.rest();
      if (planned instanceof CniError) throw planned;
      pass('add:planned');
      const { rows, result } = planned;
      const part: Part = { ...id, type: request.type, rows, ...acquired.kept, bridge };
      isMaking = true;
      const answer = () => this.#withBridgeMac(result, bridge?.bridge);
      await this.#attacher.make(part, namespaceFd, {
        ahead: ahead && { reply: ahead.reply, arm: () => ahead.arm(answer()) },
        begun,
      });
      return { part, result: answer() };
    } catch (error) {
      if (!isMaking) await begun?.abandon();
      // What was begun gives its addresses back itself; a foreign plugin is always told.
      await this.#addressing.giveBack(request, isMaking ? { ...acquired, kept: {} } : acquired);
      throw error;
    }
  }

  /** A bridge that was there before keeps its address. */
  #withBridgeMac(result: Result, bridge: string | undefined): Result {
    const mac = bridge === undefined ? undefined : this.#options.bridges.macOf(bridge);
    const [first] = result.interfaces;
    if (mac === undefined || first === undefined || first.name !== bridge) return result;
    return { ...result, interfaces: [{ ...first, mac }, ...result.interfaces.slice(1)] };
  }

  /** Another program makes the interface; what is kept is how it is told to take it away. */
  async addForeign(request: AttachmentRequest, namespaceFd: number, plugin: ForeignPlugin): Promise<Made> {
    const id = idOf(request);
    if (this.#options.leases.get(attachmentKey(id)).length > 0) await this.#makeWay(request, namespaceFd);
    const { result, foreignIpam } = await this.#addressing.addForeign(request, plugin);
    this.#options.pass('add:allocated');
    const sandbox = sandboxOf(request.netns, namespaceFd);
    const part: Part = { ...id, type: request.type, rows: {}, foreignIpam, ...(sandbox && { sandbox }) };
    try {
      await this.#attacher.make(part, namespaceFd);
    } catch (error) {
      await this.#addressing.giveBack(request, { kept: {} });
      throw error;
    }
    return { part, result };
  }

  async addChained(request: AttachmentRequest, namespaceFd: number, plugin: ChainedPlugin): Promise<Made> {
    const { leases, node } = this.#options;
    const previous = parsePrevResult(request.config, request.cniVersion);
    if (previous instanceof CniError) throw previous;
    const id = idOf(request);
    const { there, configs } = await this.#findEarlier(request, namespaceFd);
    const earlier = leases.get(attachmentKey(id)).map(({ rows }) => rows);
    const call = { id, sandbox: request.netns, namespaceFd, previous, earlier, node };
    const planned = await plugin.plan(call);
    if (planned instanceof CniError) throw planned;
    const { result } = planned;
    const rows = there === undefined ? planned.rows : joinRows(there.rows, planned.rows);
    // There is nothing to be undone.
    if (isEmpty(rows)) return { result };
    const isOurs = earlier.some(({ attachment }) => attachment !== undefined);
    const sandbox = isOurs ? undefined : sandboxOf(request.netns, namespaceFd);
    const part: Part = { ...id, type: request.type, rows, configs, ...(sandbox && { sandbox }) };
    await this.#attacher.make(part, namespaceFd);
    return { part, result };
  }

  /** Throws CniError where something is not as it was made. */
  async check(request: AttachmentRequest, namespaceFd: number, plugin: ParsedPlugin): Promise<void> {
    const { leases, node } = this.#options;
    const previous = parsePrevResult(request.config, request.cniVersion);
    if (previous instanceof CniError) throw previous;
    const id = idOf(request);
    const parts = leases.get(attachmentKey(id));
    const part = parts.find(({ type }) => type === request.type);
    if (plugin.kind !== 'chained') {
      await checkPart(request, namespaceFd, part, previous, this.#options);
      return;
    }
    const earlier = parts.map(({ rows }) => rows);
    const call = { id, sandbox: request.netns, namespaceFd, previous, earlier, node };
    await checkChained(request, plugin, part, call, this.#options);
  }

  /**
   * A second plugin of the same type in one chain adds to what the first made. Where the interface is not ours, no ADD of
   * it says that the chain begins again: the same configuration does, and what is there is of an ADD that failed.
   */
  async #findEarlier(
    request: AttachmentRequest,
    namespaceFd: number,
  ): Promise<{ readonly there?: Part; readonly configs?: readonly string[] }> {
    const parts = this.#options.leases.get(attachmentKey(request));
    const there = parts.find(({ type }) => type === request.type);
    const isOurs = parts.some(({ rows }) => rows.attachment !== undefined);
    if (isOurs) return there === undefined ? {} : { there };
    const digest = digestOf(request);
    if (there === undefined) return { configs: [digest] };
    const { configs = [] } = there;
    if (configs.length > 0 && !configs.includes(digest)) return { there, configs: [...configs, digest] };
    await this.#attacher.remove(there, namespaceFd);
    return { configs: [digest] };
  }

  /** Something may be left from a runtime that forgot it; where the interface is still there, ADD is refused. */
  async #makeWay(request: AttachmentRequest, namespaceFd: number): Promise<void> {
    const { ifname, netns } = request;
    if (await this.#options.node.hasLink(namespaceFd, ifname)) throw interfaceExists(ifname, netns);
    // Their settings are of another namespace, or gone with the interface.
    await this.remove(this.#options.leases.get(attachmentKey(request)), undefined, request.env);
  }

  /** Takes parts of one attachment away, the last made first. All are tried; the first failure is thrown. */
  async remove(
    parts: readonly Part[],
    namespaceFd: number | undefined,
    env: Environment | undefined,
  ): Promise<void> {
    const errors: unknown[] = [];
    for (const part of parts.toReversed()) {
      await this.#removeOne(part, namespaceFd, env).catch((error: unknown) => errors.push(error));
    }
    if (errors.length > 0) throw errors[0];
  }

  /**
   * DEL: as {@link remove}. Another program that the configuration names is told even where there is no record of it,
   * after a reboot or of a pod that others attached.
   */
  async removeFor(
    request: AttachmentRequest,
    parts: readonly Part[],
    namespaceFd: number | undefined,
  ): Promise<void> {
    await this.remove(parts, namespaceFd, request.env);
    if (parts.some(({ type }) => type === request.type)) return;
    const foreign = foreignOf(request);
    if (foreign !== undefined) await this.#addressing.tellForeign({ ...foreign, env: {} }, request.env);
  }

  async #removeOne(part: Part, namespaceFd: number | undefined, env: Environment | undefined): Promise<void> {
    // Ours goes first: whatever the other program does, no packet reaches the pod any more.
    const left = await this.#attacher.remove(part, namespaceFd);
    if (left !== undefined) await this.#addressing.release(left, env);
  }
}

/** Of the configuration, without what the plugins before it have made. */
function digestOf({ config }: AttachmentRequest): string {
  const text = JSON.stringify([...config].filter(([key]) => key !== 'prevresult'));
  return hash('sha256', text, 'base64url').slice(0, digestLength);
}

const digestLength = 16;

function idOf({ network, containerId, ifname }: AttachmentRequest) {
  return { network, containerId, ifname };
}
