import { applyChanges } from '../core/reconcile.ts';
import { type Change, layer, type Table } from '../core/rows.ts';
import type { AttachmentRow } from '../kernel/attachment.ts';
import { KernelError } from '../kernel/errors.ts';
import {
  type Attachment,
  type AttachmentId,
  type AttachmentNetwork,
  attachmentKey,
  planAttachment,
} from './attachment.ts';
import type { Bridges } from './bridge.ts';
import { CniError, cniCode } from './error.ts';
import type { GivenAddress } from './ipam.ts';
import type { Leases } from './leases.ts';
import { formatRangeSet } from './ranges.ts';

/** Places where a test may stop the process, in the order in which ADD and DEL pass them. */
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

export interface AttacherOptions {
  readonly table: Table<string, AttachmentRow>;
  readonly bridges: Pick<Bridges, 'ensure' | 'forget'>;
  readonly leases: Leases;
  readonly pass: (point: FaultPoint) => void;
}

/** What {@link Attacher.attach} made. */
export interface Attached {
  readonly attachment: Attachment;
  readonly addresses: readonly GivenAddress[];
}

/**
 * Makes and removes attachments: the row in the kernel together with the lease that says it is wanted. What fails
 * leaves neither behind. One call at a time for one key; the caller sees to that.
 */
export class Attacher {
  readonly #options: AttacherOptions;

  constructor(options: AttacherOptions) {
    this.#options = options;
  }

  /** Throws CniError. */
  async attach(
    id: AttachmentId,
    sandbox: { readonly path: string; readonly fd: number },
    network: AttachmentNetwork,
  ): Promise<Attached> {
    const { bridges, leases } = this.#options;
    const key = attachmentKey(id);
    if (leases.get(key) !== undefined) await this.#makeWay(key);
    const ready = bridges.ensure(network);
    if (ready !== true) await ready;
    const addresses = this.#allocate(key, network);
    const attachment = planAttachment({ id, sandbox: sandbox.path }, network, addresses);
    await this.#makeAndRecord(attachment, network, sandbox.fd);
    return { attachment, addresses };
  }

  /** The addresses come back only when no packet can reach the pod by them any more. Throws CniError. */
  async detach(attachment: Attachment): Promise<void> {
    const { row } = attachment;
    const error = await this.#write({ kind: 'delete', key: row.hostName, actual: row });
    if (error !== undefined) throw new CniError(cniCode.ioFailure, `failed to detach: ${error.message}`);
    this.#options.pass('del:quiesced');
    this.#options.leases.release(attachmentKey(attachment));
    this.#options.pass('del:released');
  }

  /** A lease of that key may be left from a runtime that forgot it; where the pair still works, ADD is refused. */
  async #makeWay(key: string): Promise<void> {
    const { leases, table } = this.#options;
    const there = leases.get(key);
    if (there === undefined) return;
    const actual = (await table.read()).get(there.row.hostName);
    if (actual?.bridge !== undefined) throw interfaceExists(there);
    await this.detach(there);
  }

  #allocate(key: string, { rangeSets }: AttachmentNetwork): readonly GivenAddress[] {
    const addresses = this.#options.leases.allocate(key, rangeSets);
    if ('exhausted' in addresses) {
      const range = formatRangeSet(addresses.exhausted);
      throw new CniError(cniCode.tryAgain, `no IP addresses available in range set: ${range}`);
    }
    this.#options.pass('add:allocated');
    return addresses;
  }

  /** The journal is written while the kernel works: a pair without a lease is removed by the next daemon. */
  async #makeAndRecord(attachment: Attachment, network: AttachmentNetwork, fd: number): Promise<void> {
    const { leases, bridges, pass } = this.#options;
    const making = this.#make(attachment, fd);
    pass('add:begun');
    const unrecorded = attempt(() => leases.record(attachment));
    pass('add:recorded');
    let error = await making;
    if (error instanceof KernelError && error.code === 'ENODEV') {
      bridges.forget(network.bridge);
      error = await this.#makeAgain(attachment, network, fd);
    }
    if (error !== undefined) {
      leases.release(attachmentKey(attachment));
      throw attachError(error, attachment);
    }
    if (unrecorded !== undefined) {
      await this.detach(attachment);
      throw new CniError(cniCode.ioFailure, `failed to record the lease: ${unrecorded.message}`);
    }
    pass('add:made');
  }

  async #makeAgain(
    attachment: Attachment,
    network: AttachmentNetwork,
    fd: number,
  ): Promise<Error | undefined> {
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

  async #write(change: Change<string, AttachmentRow>): Promise<Error | undefined> {
    try {
      const { failures } = await applyChanges([
        { layer: layer(this.#options.table, noRows), changes: [change] },
      ]);
      return failures[0]?.error;
    } catch (error) {
      return error as Error;
    }
  }
}

const noRows: ReadonlyMap<string, AttachmentRow> = new Map();

function attempt(action: () => void): Error | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

function attachError(error: Error, attachment: Attachment): CniError {
  if (error instanceof CniError) return error;
  if (error instanceof KernelError && error.code === 'EEXIST') return interfaceExists(attachment);
  const { ifname, row } = attachment;
  return new CniError(
    cniCode.internal,
    `failed to attach ${ifname} in ${row.pod?.sandbox}: ${error.message}`,
  );
}

function interfaceExists({ ifname, row }: Attachment): CniError {
  const place = JSON.stringify(row.pod?.sandbox ?? '');
  const message = `CNI_IFNAME: interface ${JSON.stringify(ifname)} already exists in ${place}`;
  return new CniError(cniCode.invalidEnvironment, message, ifname);
}
