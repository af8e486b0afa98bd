import { constants } from 'node:os';
import { isMissing, KernelError } from './errors.ts';
import type { KnownLink } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL } from './netlink/message.ts';
import {
  decodeFilter,
  ETH_P_ALL,
  encodeFilter,
  encodeFilterDump,
  type Filter,
  RTM_DELTFILTER,
  RTM_GETTFILTER,
  RTM_NEWTFILTER,
} from './netlink/route/filter.ts';
import {
  encodeQdisc,
  INGRESS_HANDLE,
  RTM_DELQDISC,
  RTM_NEWQDISC,
  TC_H_INGRESS,
} from './netlink/route/qdisc.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

const PRIORITY = 1;

/**
 * "Every frame that comes in by this link goes out by that one": an ingress qdisc with one filter. The class that
 * the filter names is the mark of ours, and the qdisc is ours as long as it holds nothing but our filter.
 */
export class Redirects {
  readonly #socket: NetlinkSocket;
  readonly #classId: number;

  constructor(socket: NetlinkSocket, classId: number) {
    this.#socket = socket;
    this.#classId = classId;
  }

  /** Index of the link that gets the frames, 0 when that is gone; undefined without a filter of ours. */
  async targetOf(link: KnownLink): Promise<number | undefined> {
    return (await this.#read(link)).find((filter) => this.#isOurs(filter))?.redirectIndex;
  }

  async ensure(link: KnownLink, to: KnownLink): Promise<KernelError | undefined> {
    const operation = `RTM_NEWTFILTER ${link.name} to ${to.name}`;
    const filters = await this.#read(link);
    const ours = filters.find((filter) => this.#isOurs(filter));
    if (ours?.redirectIndex === to.index) return undefined;
    if (filters.some((filter) => !this.#isOurs(filter))) {
      const detail = `"${link.name}" has filters of somebody else's on its way in`;
      return new KernelError(operation, constants.errno.EEXIST, { detail });
    }
    const filter = encodeFilter({
      ...this.#placeOf(link),
      kind: 'u32',
      classId: this.#classId,
      redirectIndex: to.index,
    });
    const messages: NetlinkMessage[] = [
      qdiscMessage(link, RTM_NEWQDISC, NLM_F_CREATE),
      { type: RTM_NEWTFILTER, flags: NLM_F_CREATE | NLM_F_EXCL, payload: filter, operation },
    ];
    if (ours !== undefined) messages.unshift(this.#deletion(link));
    return (await this.#socket.submit(messages)).find((error) => error !== undefined);
  }

  async remove(link: KnownLink): Promise<KernelError | undefined> {
    const filters = await this.#read(link);
    if (!filters.some((filter) => this.#isOurs(filter))) return undefined;
    const isShared = filters.some((filter) => !this.#isOurs(filter));
    const message = isShared ? this.#deletion(link) : qdiscMessage(link, RTM_DELQDISC, 0);
    const [refused] = await this.#socket.submit([message]);
    return isMissing(refused) ? undefined : refused;
  }

  async #read({ index, name }: KnownLink): Promise<Filter[]> {
    const payload = encodeFilterDump(index, INGRESS_HANDLE);
    const operation = `RTM_GETTFILTER ${name}`;
    try {
      const messages = await this.#socket.dump({ type: RTM_GETTFILTER, flags: 0, payload, operation });
      return messages.map((message) => decodeFilter(message.payload)).filter(({ isRule }) => isRule);
    } catch (error) {
      // The link went meanwhile, or there is no ingress qdisc.
      if (isMissing(error) || (error as KernelError).code === 'EINVAL') return [];
      throw error;
    }
  }

  #isOurs({ kind, classId, redirectIndex }: Filter): boolean {
    return kind === 'u32' && classId === this.#classId && redirectIndex !== undefined;
  }

  #placeOf({ index }: KnownLink): Filter {
    return { index, handle: 0, parent: INGRESS_HANDLE, priority: PRIORITY, protocol: ETH_P_ALL };
  }

  /** All filters of our priority: others there are refused when ours is made. */
  #deletion(link: KnownLink): NetlinkMessage {
    const payload = encodeFilter(this.#placeOf(link));
    return { type: RTM_DELTFILTER, flags: 0, payload, operation: `RTM_DELTFILTER ${link.name}` };
  }
}

function qdiscMessage({ index, name }: KnownLink, type: number, flags: number): NetlinkMessage {
  const payload = encodeQdisc({ index, handle: INGRESS_HANDLE, parent: TC_H_INGRESS, kind: 'ingress' });
  const verb = type === RTM_NEWQDISC ? 'RTM_NEWQDISC' : 'RTM_DELQDISC';
  return { type, flags, payload, operation: `${verb} ingress ${name}` };
}
