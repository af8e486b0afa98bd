import { hostCidr, type Ip, prefixLengthOf } from '../core/address.ts';
import type { FaultPoint } from './attacher.ts';
import { noDns } from './config.ts';
import { CniError, cniCode } from './error.ts';
import { addForeignInterface, addForeignIpam, callForeign, type ForeignCall } from './foreign-ipam.ts';
import type { HostLocalImport } from './host-local-import.ts';
import type { GivenAddress } from './ipam.ts';
import type { IpamResult } from './ipam-result.ts';
import type { LeaseBook } from './leases.ts';
import type { Log } from './log.ts';
import { attachmentKey, type ForeignIpam, leftOf, type Part } from './part.ts';
import type { ForeignPlugin, IpamChoice } from './plugin-type.ts';
import { refusalError } from './refusal.ts';
import type { AttachmentRequest, Environment } from './request.ts';
import { readResolvConf } from './resolv-conf.ts';
import type { Result } from './result.ts';

export interface AddressingOptions {
  readonly leases: LeaseBook;
  readonly imports: Pick<HostLocalImport, 'ensure' | 'avoid'>;
  readonly log: Log;
  readonly pass: (point: FaultPoint) => void;
  /** Words before a program's own that lead it to the host; none by default. */
  readonly enter?: readonly string[] | undefined;
}

/** Addresses for one attachment, and what is to be kept so that they come back. */
export interface Acquired {
  readonly ipam: IpamResult;
  readonly kept: Pick<Part, 'addresses' | 'foreignIpam'>;
}

/** Gets the addresses of interfaces, from whomever the configuration says. */
export class Addressing {
  readonly #options: AddressingOptions;

  constructor(options: AddressingOptions) {
    this.#options = options;
  }

  /** What the caller may await: own addresses are there at once. Throws CniError. */
  acquire(request: AttachmentRequest, choice: IpamChoice): Acquired | Promise<Acquired> {
    switch (choice.kind) {
      case 'none':
        return { ipam: { ips: [], routes: [], dns: noDns }, kept: {} };
      case 'foreign':
        return this.#acquireForeign(request, choice);
      case 'own': {
        const imported = this.#lookForFiles(request, choice);
        return imported === true
          ? this.#acquireOwn(request, choice)
          : imported.then(() => this.#acquireOwn(request, choice));
      }
    }
  }

  /** Pods of host-local keep their addresses: those of a network become ours, those of the node's are left alone. */
  #lookForFiles({ network, config }: AttachmentRequest, choice: OwnChoice): true | Promise<true> {
    const { imports } = this.#options;
    if (choice.imports) return imports.ensure(network, config);
    imports.avoid(choice.rangeSets, config);
    return true;
  }

  #acquireOwn(request: AttachmentRequest, { rangeSets, requested, resolvConf }: OwnChoice): Acquired {
    const dns = readResolvConf(resolvConf);
    const given = this.#allocate(request, () =>
      this.#options.leases.allocate(attachmentKey(request), rangeSets, requested),
    );
    return { ipam: { ...ipamResult(given), dns }, kept: { addresses: given.map(({ ip }) => ip) } };
  }

  #allocate(
    request: AttachmentRequest,
    allocate: () => ReturnType<LeaseBook['allocate']>,
  ): readonly GivenAddress[] {
    let given: ReturnType<LeaseBook['allocate']>;
    try {
      given = allocate();
    } catch (error) {
      throw unrecorded(error);
    }
    if ('kind' in given) throw refusalError(given, request.containerId);
    return given;
  }

  async #acquireForeign(request: AttachmentRequest, plugin: ForeignPlugin): Promise<Acquired> {
    const { given, foreignIpam } = await this.#ask(request, plugin, addForeignIpam);
    return { ipam: given, kept: { foreignIpam } };
  }

  /** An interface that a program makes, with its addresses. Throws CniError. */
  async addForeign(
    request: AttachmentRequest,
    plugin: ForeignPlugin,
  ): Promise<{ result: Result; foreignIpam: ForeignIpam }> {
    const add = (call: ForeignCall) => addForeignInterface(call, request.cniVersion);
    const { given, foreignIpam } = await this.#ask(request, plugin, add);
    return { result: given, foreignIpam };
  }

  /** That the program is asked is on record before it is: whatever becomes of this process, it will be told of the end. */
  async #ask<T>(
    { network, containerId, ifname, type: of, env }: AttachmentRequest,
    { type, configText }: ForeignPlugin,
    add: (call: ForeignCall) => Promise<T>,
  ): Promise<{ given: T; foreignIpam: ForeignIpam }> {
    const foreignIpam = { type, env: Object.fromEntries(env), configText };
    const left = leftOf({ network, containerId, ifname, type: of, rows: {}, foreignIpam }) as Part;
    this.#record(left);
    this.#options.pass('add:asking');
    try {
      return { given: await add({ type, env, configText, ...this.#how }), foreignIpam };
    } catch (error) {
      // It was told to take it back; if that failed, the DEL to come will do, by a configuration that may be better.
      this.#options.leases.release(left);
      throw error;
    }
  }

  #record(part: Part): void {
    try {
      this.#options.leases.record(part);
    } catch (error) {
      throw unrecorded(error);
    }
  }

  /** Undoes {@link acquire} of which nothing was recorded but that a program was asked. */
  async giveBack(request: AttachmentRequest, { kept }: Pick<Acquired, 'kept'>): Promise<void> {
    const { leases } = this.#options;
    const key = attachmentKey(request);
    if (kept.addresses !== undefined) leases.giveBack(key);
    const left = leases.get(key).find(({ type, isLeft }) => isLeft && type === request.type);
    if (left !== undefined) await this.release(left).catch(() => {});
  }

  /** Tells the program of a part of which nothing else is left, and forgets the part. Throws CniError. */
  async release(left: Part, now?: Environment): Promise<void> {
    if (left.foreignIpam !== undefined) await this.tellForeign(left.foreignIpam, now);
    this.#options.pass('del:told');
    this.#options.leases.release(left);
  }

  /** Tells a foreign plugin that its addresses are free, with the configuration of the ADD. Throws CniError. */
  async tellForeign({ type, env, configText }: ForeignIpam, now: Environment = noVariables): Promise<void> {
    const call = { type, env: new Map([...Object.entries(env), ...now]), configText, ...this.#how };
    await callForeign('DEL', call);
  }

  get #how(): Pick<ForeignCall, 'enter' | 'onLog'> {
    return { enter: this.#options.enter, onLog: this.#onLog };
  }

  readonly #onLog = (text: string) => this.#options.log.warn({ ipam: text }, 'foreign IPAM plugin');
}

type OwnChoice = Extract<IpamChoice, { kind: 'own' }>;

const noVariables: Environment = new Map();

function unrecorded(error: unknown): CniError {
  return new CniError(cniCode.ioFailure, `failed to record the lease: ${(error as Error).message}`);
}

function ipamResult(given: readonly GivenAddress[]): Omit<IpamResult, 'dns'> {
  const ips = given.map(({ ip, range }) => ({ address: addressIn(ip, range), gateway: range.gateway }));
  return { ips, routes: [] };
}

function addressIn(ip: Ip, { subnet }: GivenAddress['range']) {
  return hostCidr(ip, prefixLengthOf(subnet));
}
