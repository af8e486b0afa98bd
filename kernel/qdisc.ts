import type { Mac } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { isMissing, KernelError } from './errors.ts';
import { deviceOfIfb, ensureIfb, removeIfb } from './ifb.ts';
import { type KnownLink, LinkIndex } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_CREATE } from './netlink/message.ts';
import {
  decodeQdisc,
  encodeQdisc,
  encodeQdiscDump,
  INGRESS_HANDLE,
  type Qdisc,
  RTM_DELQDISC,
  RTM_GETQDISC,
  RTM_NEWQDISC,
  TC_H_ROOT,
} from './netlink/route/qdisc.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { Redirects } from './redirect.ts';
import { type Shaper, sameShaper, shaperOf, tbfOf } from './tbf.ts';
import { failuresOf } from './write.ts';

/** The limits of one link, seen from the node: its end of a container's veth pair. */
export interface QdiscRow {
  readonly device: string;
  /** Frames that go out by the device, to the container. */
  readonly transmit?: Shaper | undefined;
  /** Frames that come in by it, from the container: led through a link that is made for this. */
  readonly receive?: ReceiveShaper | undefined;
}

export interface ReceiveShaper extends Shaper {
  /** Name of the ifb. */
  readonly ifb: string;
  readonly mac?: Mac | undefined;
  readonly mtuBytes?: number | undefined;
  /** False in what was read back: no frame gets to the ifb. */
  readonly isFed?: boolean | undefined;
}

export function qdiscKey(row: QdiscRow): string {
  return row.device;
}

/** Mark of the token buckets of ours; the kernel gives handles from 8000: up. */
const QDISC_HANDLE = 0x0fa10000;

/**
 * Limits by token buckets. Ours are: a root qdisc "tbf" of the handle fa1:, a filter on the way in of the class
 * fa1:1, an ifb whose alias begins with "fairlead bandwidth". So the device may be anybody's. Where a device has
 * a root qdisc or filters of others, making a row fails with EEXIST, and removing one leaves them.
 */
export class QdiscTable implements Table<string, QdiscRow> {
  readonly name = 'qdisc';
  readonly #socket: NetlinkSocket;
  readonly #redirects: Redirects;

  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#socket = socket;
    this.#redirects = new Redirects(socket, (QDISC_HANDLE | 1) >>> 0);
  }

  same(wanted: QdiscRow, actual: QdiscRow): boolean {
    return sameOptional(wanted.transmit, actual.transmit) && sameReceive(wanted.receive, actual.receive);
  }

  async read(): Promise<Map<string, QdiscRow>> {
    const links = await LinkIndex.read(this.#socket);
    const qdiscs = await this.#dump();
    const shapers = new Map<number, Shaper>();
    for (const { index, tbf } of qdiscs.filter(isOurQdisc)) {
      if (tbf !== undefined) shapers.set(index, shaperOf(tbf));
    }
    const receives = await this.#readReceives(links, qdiscs, shapers);
    const rows = new Map<string, QdiscRow>();
    for (const [device, receive] of receives) rows.set(device, { device, receive });
    for (const [index, transmit] of shapers) {
      const link = links.at(index);
      if (link === undefined || deviceOfIfb(link) !== undefined) continue;
      rows.set(link.name, { ...rows.get(link.name), device: link.name, transmit });
    }
    return rows;
  }

  async #dump(): Promise<Qdisc[]> {
    const message = { type: RTM_GETQDISC, flags: 0, payload: encodeQdiscDump(), operation: 'RTM_GETQDISC' };
    return (await this.#socket.dump(message)).map(({ payload }) => decodeQdisc(payload));
  }

  /** By device, which may be gone: then the ifb is left over. */
  async #readReceives(
    links: LinkIndex,
    qdiscs: readonly Qdisc[],
    shapers: ReadonlyMap<number, Shaper>,
  ): Promise<Map<string, ReceiveShaper>> {
    const receives = new Map<string, ReceiveShaper>();
    for (const { index, handle } of qdiscs) {
      const device = handle === INGRESS_HANDLE ? links.at(index) : undefined;
      const target = device === undefined ? undefined : await this.#redirects.targetOf(device);
      if (device === undefined || target === undefined) continue;
      receives.set(device.name, { ifb: links.at(target)?.name ?? '', ...unlimited, isFed: false });
    }
    for (const { index, name, ...ifb } of links) {
      const device = deviceOfIfb(ifb);
      if (device === undefined) continue;
      const isFed = receives.get(device)?.ifb === name;
      const { mac, mtuBytes } = ifb;
      receives.set(device, { ifb: name, mac, mtuBytes, ...(shapers.get(index) ?? unlimited), isFed });
    }
    return receives;
  }

  async write(changes: readonly Change<string, QdiscRow>[]): Promise<Failure<string>[]> {
    const errors = new Map<Change<string, QdiscRow>, KernelError>();
    for (const change of changes) {
      const error = await this.#apply(change);
      if (error !== undefined) errors.set(change, error);
    }
    return failuresOf(this, errors);
  }

  async #apply(change: Change<string, QdiscRow>): Promise<KernelError | undefined> {
    if (change.kind === 'delete') return this.#remove(change.actual);
    const error = await this.#make(change.wanted);
    if (error !== undefined) {
      // Half a limit would be taken for the whole one.
      if (change.kind === 'create') await this.#remove(change.wanted);
      return error;
    }
    return change.kind === 'update' ? this.#removeStale(change.wanted, change.actual) : undefined;
  }

  async #make({ device, transmit, receive }: QdiscRow): Promise<KernelError | undefined> {
    const links = await LinkIndex.lookUp(this.#socket, [device]);
    const link = links.find(device, `RTM_NEWQDISC ${device}`);
    if (link instanceof KernelError) return link;
    return (
      (transmit === undefined ? undefined : await this.#limit(link, transmit)) ??
      (receive === undefined ? undefined : await this.#makeReceive(link, receive))
    );
  }

  /** The bucket first, then the frames: they are never let through without a limit by way of the ifb. */
  async #makeReceive(link: KnownLink, receive: ReceiveShaper): Promise<KernelError | undefined> {
    const { ifb: name, mac, mtuBytes } = receive;
    const ifb = await ensureIfb(this.#socket, { name, device: link.name, mac, mtuBytes });
    if (ifb instanceof KernelError) return ifb;
    return (await this.#limit(ifb, receive)) ?? (await this.#redirects.ensure(link, ifb));
  }

  /** Makes or changes the bucket: with a handle and without NLM_F_REPLACE the kernel refuses to put another's away. */
  async #limit({ index, name }: KnownLink, shaper: Shaper): Promise<KernelError | undefined> {
    const place = { index, handle: QDISC_HANDLE, parent: TC_H_ROOT };
    const message: NetlinkMessage = {
      type: RTM_NEWQDISC,
      flags: NLM_F_CREATE,
      payload: encodeQdisc({ ...place, kind: 'tbf', tbf: tbfOf(shaper) }),
      operation: `RTM_NEWQDISC tbf ${name}`,
    };
    return (await this.#socket.submit([message]))[0];
  }

  /** What the wanted row has no more, or has elsewhere. */
  async #removeStale(wanted: QdiscRow, actual: QdiscRow): Promise<KernelError | undefined> {
    const { device, transmit, receive } = actual;
    const isTransmitStale = transmit !== undefined && wanted.transmit === undefined;
    if (receive === undefined || receive.ifb === wanted.receive?.ifb) {
      return isTransmitStale ? this.#remove({ device, transmit }) : undefined;
    }
    if (wanted.receive === undefined) {
      return this.#remove({ device, receive, transmit: isTransmitStale ? transmit : undefined });
    }
    const removed = await removeIfb(this.#socket, { name: receive.ifb, device });
    return removed ?? (isTransmitStale ? this.#remove({ device, transmit }) : undefined);
  }

  /** The filter goes before the ifb: a redirection to a link that is gone drops every frame. */
  async #remove({ device, transmit, receive }: QdiscRow): Promise<KernelError | undefined> {
    const link = (await LinkIndex.lookUp(this.#socket, [device])).named(device);
    const errors: (KernelError | undefined)[] = [];
    if (link !== undefined && transmit !== undefined) errors.push(await this.#unlimit(link));
    if (link !== undefined && receive !== undefined) errors.push(await this.#redirects.remove(link));
    if (receive !== undefined && receive.ifb !== '') {
      errors.push(await removeIfb(this.#socket, { name: receive.ifb, device }));
    }
    return errors.find((error) => error !== undefined);
  }

  /** Removing by handle says EINVAL both where there is no qdisc and where it is another's: ask for it first. */
  async #unlimit({ index, name }: KnownLink): Promise<KernelError | undefined> {
    const operation = `RTM_DELQDISC tbf ${name}`;
    const found = encodeQdisc({ index, handle: QDISC_HANDLE, parent: 0 });
    const [asked, removed] = await this.#socket.submit([
      { type: RTM_GETQDISC, flags: 0, payload: found, operation },
      {
        type: RTM_DELQDISC,
        flags: 0,
        payload: encodeQdisc({ index, handle: QDISC_HANDLE, parent: TC_H_ROOT }),
        operation,
      },
    ]);
    return isMissing(asked) ? undefined : removed;
  }
}

const unlimited: Shaper = { rateBytes: 0, burstBytes: 0 };

function isOurQdisc({ handle, parent, kind }: Qdisc): boolean {
  return handle === QDISC_HANDLE && parent === TC_H_ROOT && kind === 'tbf';
}

function sameOptional(wanted: Shaper | undefined, actual: Shaper | undefined): boolean {
  if (wanted === undefined || actual === undefined) return wanted === actual;
  return sameShaper(wanted, actual);
}

function sameReceive(wanted: ReceiveShaper | undefined, actual: ReceiveShaper | undefined): boolean {
  if (wanted === undefined || actual === undefined) return wanted === actual;
  return (
    sameShaper(wanted, actual) &&
    wanted.ifb === actual.ifb &&
    (wanted.mac ?? actual.mac) === actual.mac &&
    (wanted.mtuBytes ?? actual.mtuBytes) === actual.mtuBytes &&
    (wanted.isFed ?? true) === (actual.isFed ?? true)
  );
}
