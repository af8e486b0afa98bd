import { CniError, cniCode } from './error.ts';
import { callForeign, type ForeignCall } from './foreign-ipam.ts';
import type { HostLocal } from './host-local.ts';
import type { HostLocalImport } from './host-local-import.ts';
import type { LeaseBook } from './leases.ts';
import type { NodeNetwork } from './node-network.ts';
import { attachmentKey, type Part } from './part.ts';
import type { ForeignPlugin, IpamChoice } from './plugin-type.ts';
import { findPluginType } from './plugin-types.ts';
import { exhaustedText } from './refusal.ts';
import { ipamPlugin, type NetworkRequest } from './request.ts';
import { parseValidAttachments, staleAttachments } from './valid-attachments.ts';

export interface UpkeepOptions {
  readonly leases: LeaseBook;
  readonly imports: Pick<HostLocalImport, 'ensure'>;
  readonly hostLocal: HostLocal;
  readonly network: () => NodeNetwork | undefined;
  /** Of programs that are called. */
  readonly enter?: ForeignCall['enter'];
  /** Takes all parts of an attachment away. Throws CniError. */
  readonly remove: (key: string, parts: readonly Part[]) => Promise<void>;
  /** What keeps pods that are there from the network; undefined: nothing. */
  readonly trouble: () => string | undefined;
}

/** GC and STATUS: the verbs about a network. */
export class Upkeep {
  readonly #options: UpkeepOptions;

  constructor(options: UpkeepOptions) {
    this.#options = options;
  }

  /**
   * Removes what the runtime says is not in use, whichever plugin of the network made it. What fails does not stop the
   * rest; all of it is told in one CniError.
   */
  async gc(request: NetworkRequest): Promise<void> {
    const { leases, remove } = this.#options;
    if (request.type === ipamPlugin) return void (await this.#options.hostLocal.gc(request));
    const valid = parseValidAttachments(request.config);
    if (valid instanceof CniError) throw valid;
    if (valid === undefined) return;
    const errors: CniError[] = [];
    const attempt = (work: Promise<unknown>) =>
      work.catch((error: unknown) => void errors.push(CniError.from(error)));
    await attempt(this.#prepare(request));
    const stale = Map.groupBy(staleAttachments<Part>(leases.values(), request.network, valid), attachmentKey);
    await Promise.all([...stale].map(([key, parts]) => attempt(remove(key, parts))));
    throwAll(errors);
  }

  /** Files of host-local count, and a foreign plugin does its own part. */
  async #prepare(request: NetworkRequest): Promise<void> {
    const ipam = this.#ipamOf(request);
    if (ipam?.kind === 'own' && ipam.imports) {
      await this.#options.imports.ensure(request.network, request.config);
    }
    if (ipam?.kind === 'foreign') await this.#callForeign('GC', ipam, request);
  }

  /** Whether an ADD could be served now. Throws CniError, code 50 or 51. */
  async status(request: NetworkRequest): Promise<void> {
    const trouble = this.#options.trouble();
    if (trouble !== undefined) throw new CniError(cniCode.limitedConnectivity, trouble);
    if (request.type === ipamPlugin) return this.#options.hostLocal.status(request);
    let ipam: IpamChoice | undefined;
    try {
      ipam = this.#ipamOf(request);
    } catch (error) {
      throw unavailable(error);
    }
    if (ipam?.kind === 'foreign') await this.#callForeign('STATUS', ipam, request);
    const exhausted = ipam?.kind === 'own' ? this.#options.leases.exhausted(ipam.rangeSets) : undefined;
    if (exhausted !== undefined) throw new CniError(cniCode.notAvailable, exhaustedText(exhausted));
  }

  /** Undefined for plugins that give no addresses. Throws CniError. */
  #ipamOf({ type, config, configText, cniVersion }: NetworkRequest): IpamChoice | undefined {
    const found = findPluginType(type);
    if (found instanceof CniError) throw found;
    const plugin = found.parse(config, { cniVersion, configText, args: {} });
    if (plugin instanceof CniError) throw plugin;
    if (plugin.kind === 'chained') return undefined;
    if (plugin.kind === 'foreign') return plugin;
    const network = plugin.network(this.#options.network());
    if (network instanceof CniError) throw network;
    return network.ipam;
  }

  #callForeign(
    verb: 'GC' | 'STATUS',
    { type, configText }: ForeignPlugin,
    { env }: NetworkRequest,
  ): Promise<void> {
    return callForeign(verb, { type, env, configText, enter: this.#options.enter });
  }
}

/** What may be better later is a plugin that is not available; a wrong configuration never is. */
function unavailable(error: unknown): CniError {
  const refused = CniError.from(error);
  if (refused.code !== cniCode.tryAgain) return refused;
  return new CniError(cniCode.notAvailable, refused.message, refused.details);
}

function throwAll(errors: readonly CniError[]): void {
  const [first, ...more] = errors;
  if (first === undefined) return;
  if (more.length === 0) throw first;
  throw new CniError(first.code, errors.map(({ message }) => message).join('; '));
}
