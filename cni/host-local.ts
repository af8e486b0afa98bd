import {
  type AddressLeases,
  addressLeaseType,
  findAddressLease,
  recordAddressLease,
} from './address-leases.ts';
import { CniError, cniCode } from './error.ts';
import type { HostLocalImport } from './host-local-import.ts';
import type { GivenAddress } from './ipam.ts';
import type { IpamResult } from './ipam-result.ts';
import { type AttachmentId, attachmentKey } from './part.ts';
import { exhaustedText, refusalError } from './refusal.ts';
import type { AttachmentRequest, NetworkRequest } from './request.ts';
import { readResolvConf } from './resolv-conf.ts';
import { type Sandbox, sandboxOf } from './sandbox.ts';
import { type HostLocalConfig, namesHostLocal, parseHostLocal, planHostLocal } from './types/host-local.ts';
import { parseValidAttachments, staleAttachments } from './valid-attachments.ts';

export interface HostLocalOptions {
  readonly leases: AddressLeases;
  readonly imports: Pick<HostLocalImport, 'ensure'>;
}

/**
 * The plugin of type host-local when another plugin, such as macvlan, calls it by that name: addresses out of the
 * same book as everyone's. One call at a time for one attachment; the caller sees to that. Every verb throws
 * CniError.
 */
export class HostLocal {
  readonly #leases: AddressLeases;
  readonly #imports: Pick<HostLocalImport, 'ensure'>;

  constructor({ leases, imports }: HostLocalOptions) {
    this.#leases = leases;
    this.#imports = imports;
  }

  async add(request: AttachmentRequest, namespaceFd?: number): Promise<IpamResult> {
    const config = orThrow(parseHostLocal(request.config, request.cniVersion, request.args));
    const dns = readResolvConf(config.resolvConf);
    await this.#imports.ensure(request.network, request.config);
    const sandbox = sandboxOf(request.netns, namespaceFd);
    return planHostLocal(config, this.#grant(request, config, sandbox), dns);
  }

  #grant(
    id: AttachmentId,
    { rangeSets, requested }: HostLocalConfig,
    sandbox: Sandbox | undefined,
  ): readonly GivenAddress[] {
    const granted = orIoFailure(() => this.#leases.allocate(attachmentKey(id), rangeSets, requested));
    if ('kind' in granted) throw refusalError(granted, id.containerId);
    const addresses = granted.map(({ ip }) => ip);
    orIoFailure(() => recordAddressLease(this.#leases, id, addresses, sandbox));
    return granted;
  }

  /** Needs nothing of the configuration but its name, and where files of earlier pods may lie. */
  async del(request: AttachmentRequest): Promise<void> {
    await this.#imports.ensure(request.network, request.config);
    const lease = findAddressLease(this.#leases, request);
    if (lease !== undefined) orIoFailure(() => this.#leases.release(lease));
  }

  /** DEL of another type: a pod from before, of host-local as a program, has only its file. */
  async delBefore(request: AttachmentRequest): Promise<void> {
    if (namesHostLocal(request.type, request.config)) await this.del(request);
  }

  async check(request: AttachmentRequest): Promise<void> {
    orThrow(parseHostLocal(request.config, request.cniVersion, request.args));
    await this.#imports.ensure(request.network, request.config);
    if (findAddressLease(this.#leases, request) !== undefined) return;
    const text = `host-local: Failed to find address added by container ${request.containerId}`;
    throw new CniError(cniCode.internal, text);
  }

  /** Takes back what is held for attachments that the runtime does not know, and says for which. */
  async gc(request: NetworkRequest): Promise<readonly AttachmentId[]> {
    const valid = orThrow(parseValidAttachments(request.config));
    if (valid === undefined) return [];
    await this.#imports.ensure(request.network, request.config);
    const leases = [...this.#leases.values()].filter(({ type }) => type === addressLeaseType);
    const stale = staleAttachments(leases, request.network, valid);
    for (const lease of stale) orIoFailure(() => this.#leases.release(lease));
    return stale;
  }

  status({ config, cniVersion }: NetworkRequest): void {
    const { rangeSets } = orThrow(parseHostLocal(config, cniVersion));
    const exhausted = this.#leases.exhausted(rangeSets);
    if (exhausted !== undefined) throw new CniError(cniCode.notAvailable, exhaustedText(exhausted));
  }
}

function orThrow<T>(value: T | CniError): T {
  if (value instanceof CniError) throw value;
  return value;
}

function orIoFailure<T>(action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw new CniError(cniCode.ioFailure, `failed to record the lease: ${(error as Error).message}`);
  }
}
