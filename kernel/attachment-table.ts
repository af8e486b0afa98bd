import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { familyOf } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import type { Descriptor, Lane } from '../native/index.ts';
import {
  type AttachmentGround,
  type AttachmentPod,
  type AttachmentRow,
  attachmentAliasPrefix,
  type BegunPair,
  hostMessages,
  ipv6MtuMinBytes,
  podIndexUsual,
  podMessages,
  quiesceMessage,
  updateMessages,
} from './attachment.ts';
import { detectDuplicates, settleAddresses } from './duplicates.ts';
import { isMissing, KernelError } from './errors.ts';
import { JobRunner, type JobStep, type Refusal } from './job.ts';
import { decodeLink, encodeLink, getLinkMessage, IFF_UP, type Link } from './netlink/route/link.ts';
import { RTM_DELLINK } from './netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from './netlink/socket.ts';
import { isReapGroup, LinkReaper } from './reaper.ts';
import { SysctlTable } from './sysctl.ts';

/** Times that making a row is begun, each time after something in its way was found and removed. */
const attemptsMax = 4;
/** Numbers that we choose for links begin here, far above those that the kernel gives. */
const indexBase = 1 << 20;
const indexSpread = 1 << 29;

/** On the node, then inside the container if there is anything to do. */
type Steps = readonly [JobStep, ...JobStep[]];

/** What is left to be done for a row. */
interface Remaining {
  readonly begun: BegunPair | undefined;
  readonly ground: AttachmentGround;
  readonly later: readonly JobStep[];
}

export interface AttachmentTableOptions {
  /** The node's network namespace; else that of the process. Open as long as the table is used. */
  readonly namespaceFd?: Descriptor | undefined;
  /** A batch of links could not be deleted. They are down and marked, and found again at the next start. */
  readonly onReapFailure: (error: KernelError) => void;
}

/**
 * Attachments as rows. Making one is a job of two datagrams on a thread of its own; removing one takes it out of
 * service at once and leaves the deletion to {@link LinkReaper}, so `write` returns 16 ms earlier.
 *
 * A failed write leaves nothing of the row behind. The code of its error says what the caller can do about it:
 * ENODEV the bridge is not there, EEXIST the container has an interface of that name.
 */
export class AttachmentTable implements Table<string, AttachmentRow>, Disposable {
  readonly name = 'attachment';
  readonly #jobs: JobRunner;
  readonly #slowJobs: JobRunner;
  readonly #socket: NetlinkSocket;
  readonly #reaper: LinkReaper;
  readonly #namespaceFd: Descriptor;
  readonly #bridges = new Map<string, number>();
  /** Not where the kernel was started with ipv6.disable=1. */
  readonly #kernelHasIpv6 = existsSync('/proc/sys/net/ipv6');
  #index = indexBase;

  constructor({ namespaceFd, onReapFailure }: AttachmentTableOptions) {
    this.#namespaceFd = namespaceFd ?? -1;
    this.#jobs = new JobRunner(NETLINK_ROUTE, namespaceFd);
    this.#slowJobs = new JobRunner(NETLINK_ROUTE, namespaceFd);
    this.#socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd, lane: this.#slowJobs.lane });
    this.#reaper = new LinkReaper(this.#socket, onReapFailure);
  }

  same(wanted: AttachmentRow, actual: AttachmentRow): boolean {
    return (
      wanted.bridge === actual.bridge &&
      (wanted.mtuBytes ?? actual.mtuBytes) === actual.mtuBytes &&
      (wanted.hairpin ?? false) === (actual.hairpin ?? false) &&
      (wanted.isolated ?? false) === (actual.isolated ?? false) &&
      actual.isQuiesced !== true &&
      actual.isHostDown !== true
    );
  }

  async read(): Promise<Map<string, AttachmentRow>> {
    const links = (await this.#socket.dump(getLinkMessage())).map(({ payload }) => decodeLink(payload));
    const names = new Map(links.map(({ index, name }) => [index, name]));
    const rows = new Map<string, AttachmentRow>();
    for (const link of links) {
      const row = attachmentOf(link, names);
      if (row !== undefined) rows.set(row.hostName, row);
    }
    return rows;
  }

  async write(changes: readonly Change<string, AttachmentRow>[]): Promise<Failure<string>[]> {
    const failures: Failure<string>[] = [];
    const apply = async (change: Change<string, AttachmentRow>) => {
      const error = await this.#apply(change);
      if (error !== undefined) failures.push({ key: change.key, kind: change.kind, error });
    };
    await Promise.all(changes.map(apply));
    return failures;
  }

  /**
   * Has the kernel begin with a row's pair: `write` goes on with it, where the row has it as `begun`. Undefined where it
   * takes more than the usual steps. The row needs no more than what belongs to the pair.
   */
  begin(row: AttachmentRow): BegunPair | undefined {
    const { pod, hostName } = row;
    const master = this.#knownMaster(row);
    if (pod?.namespaceFd === undefined || master === undefined) return undefined;
    if (!isPlain(row) || this.#reaper.isReaping(hostName)) return undefined;
    const ground = { master, host: this.#index++, pod: podIndexUsual, hasIpv6: this.#hasIpv6(row) };
    return { ground, job: this.#jobs.begin({ messages: hostMessages(row, pod, ground) }) };
  }

  /** Takes back a pair that nobody wants any more. */
  async abandon(hostName: string, { job }: BegunPair): Promise<Error | undefined> {
    const refused = await this.#jobs.run([], undefined, job);
    // Not even made; what has its name is not ours.
    if (refused !== undefined && refused.errors[0] !== undefined) return undefined;
    return await this.#deleteNow(hostName);
  }

  /** Where rows are made. */
  get lane(): Lane {
    return this.#jobs.lane;
  }

  /** Resolves when every row removed so far is gone from the kernel. */
  flush(): Promise<void> {
    return this.#reaper.flush();
  }

  #apply(change: Change<string, AttachmentRow>): Promise<Error | undefined> {
    switch (change.kind) {
      case 'create':
        return this.#make(change.wanted);
      case 'update':
        return this.#update(change.wanted);
      case 'delete':
        return this.#remove(change.key);
    }
  }

  /** The container keeps its interface: only the end on the host is brought in line. */
  async #update(row: AttachmentRow): Promise<Error | undefined> {
    if (this.#reaper.isReaping(row.hostName)) return this.#make(row);
    // Not by its number of before: it may have been made anew.
    const master = row.bridge === undefined ? 0 : await this.#lookUpBridge(row.bridge);
    const index = (await this.#link(row.hostName))?.index;
    if (index === undefined) return new KernelError(`RTM_SETLINK ${row.hostName}`, constants.errno.ENODEV);
    if (master === undefined) return missingBridge(row);
    const outcomes = await this.#socket.submit(updateMessages(row, index, master));
    return outcomes.find((error) => error !== undefined);
  }

  async #remove(hostName: string): Promise<Error | undefined> {
    const refused = await this.#reaper.reap(hostName, (group) =>
      this.#jobs.run([{ messages: [quiesceMessage(hostName, group)] }]),
    );
    return refused === undefined || isMissing(refused.error) ? undefined : refused.error;
  }

  async #make(row: AttachmentRow): Promise<Error | undefined> {
    const { pod, hostName } = row;
    const namespaceFd = pod?.namespaceFd;
    if (pod === undefined || namespaceFd === undefined) {
      return new Error(`${hostName}: no descriptor of the container's namespace`);
    }
    let { begun } = pod;
    if (begun === undefined && this.#reaper.isReaping(hostName)) await this.#reaper.flush();
    let podIndex = podIndexUsual;
    for (let attempt = 1; ; attempt += 1) {
      // Nothing is awaited on the usual way: the job has begun when `write` returns its promise.
      const master = begun?.ground.master ?? this.#knownMaster(row) ?? (await this.#masterOf(row));
      if (master === undefined) return missingBridge(row);
      const ground = begun?.ground ?? {
        master,
        host: this.#index++,
        pod: podIndex,
        hasIpv6: this.#hasIpv6(row),
      };
      const inside = podMessages(pod, ground);
      const later: JobStep[] = inside.length === 0 ? [] : [{ namespaceFd, messages: inside }];
      const refused = await this.#run(row, pod, { begun, ground, later });
      begun = undefined;
      if (refused instanceof Error) return (await this.#deleteNow(row.hostName)) ?? refused;
      if (refused === undefined) return undefined;
      const final = await this.#clearWay(row, pod, { ...refused, master });
      if (final === 'made') return undefined;
      if (final !== 'again' || attempt === attemptsMax) {
        return final === 'again' ? refused.error : final;
      }
      // The usual number may be what was in the way inside the container; nobody there has one of ours.
      // Nor may it be that of the end on the host, which is in the same namespace where the host has both.
      podIndex = this.#index++;
    }
  }

  #run(
    row: AttachmentRow,
    pod: AttachmentPod,
    { begun, ground, later }: Remaining,
  ): Promise<Refusal | Error | undefined> {
    if (begun !== undefined) return this.#jobs.run(later, pod.reply, begun.job);
    const steps: Steps = [{ messages: hostMessages(row, pod, ground) }, ...later];
    return isPlain(row) ? this.#jobs.run(steps, pod.reply) : this.#runGuarded(row, pod, steps);
  }

  /** With parameters set before the first packet, or with a wait after the last step. */
  async #runGuarded(
    row: AttachmentRow,
    pod: AttachmentPod,
    [first, second]: Steps,
  ): Promise<Refusal | Error | undefined> {
    const refused = await this.#jobs.run([first]);
    if (refused !== undefined) return refused;
    const unset = (await this.#ignoreAdvertisements(row)) ?? (await detectDuplicates(pod));
    if (unset !== undefined) return unset;
    const later = second && (await this.#jobs.run([second]));
    if (later !== undefined) return { ...later, step: 1 };
    return pod.detectsDuplicates ? settleAddresses(pod) : undefined;
  }

  /**
   * Where the node forwards no IPv6 it would believe a pod that says it is a router (CVE-2020-10749). A port of a
   * bridge takes nothing in, and a node that forwards believes nobody.
   */
  async #ignoreAdvertisements({ hostName, host }: AttachmentRow): Promise<Error | undefined> {
    if (host === undefined) return undefined;
    const key = `net/ipv6/conf/${hostName}/accept_ra`;
    const sysctls = new SysctlTable({ keys: [key], namespaceFd: this.#namespaceFd });
    const [failure] = await sysctls.write([{ kind: 'create', key, wanted: '0' }]);
    // Without IPv6 in the kernel there is no such parameter.
    return isMissing(failure?.error) ? undefined : failure?.error;
  }

  /** After a refusal: removes what was made so far and what is in the way, or says why there is no way. */
  async #clearWay(
    row: AttachmentRow,
    pod: AttachmentPod,
    refused: Refusal & { readonly master: number },
  ): Promise<'again' | 'made' | Error> {
    if (refused.step === 1 && (await this.#retryWithIpv6(pod, refused))) return 'made';
    if (refused.step > 0 || refused.errors[0] === undefined) {
      return (await this.#deleteNow(row.hostName)) ?? refused.error;
    }
    if (refused.error.code === 'EBUSY') return 'again';
    if (refused.error.code === 'EEXIST') return this.#clearNames(row, pod, refused.error);
    if (row.bridge !== undefined && (await this.#isBridgeGone(row.bridge, refused.master))) {
      return missingBridge(row);
    }
    return refused.error;
  }

  /** EEXIST says neither which end nor whether it was the name or the number. */
  async #clearNames(row: AttachmentRow, pod: AttachmentPod, error: KernelError): Promise<'again' | Error> {
    const there = await this.#link(row.hostName);
    if (there !== undefined) {
      if (there.alias?.startsWith(attachmentAliasPrefix) !== true) return error;
      return (await this.#deleteNow(row.hostName)) ?? 'again';
    }
    // The container's interface may be the other end of one that was marked a moment ago.
    await this.#reaper.flush();
    if (await hasLink(pod)) return error;
    this.#index = indexBase + Math.floor(Math.random() * indexSpread);
    return 'again';
  }

  /** A runtime may have switched IPv6 off in the container (EACCES); an IPv6 address says that it is wanted. */
  async #retryWithIpv6(pod: AttachmentPod, refused: Refusal): Promise<boolean> {
    const { namespaceFd, ifname } = pod;
    if (namespaceFd === undefined || !refused.errors.some((error) => error?.code === 'EACCES')) return false;
    const keys = ['lo', ifname].map((device) => `net/ipv6/conf/${device}/disable_ipv6`);
    const sysctls = new SysctlTable({ keys, namespaceFd });
    await sysctls.write(keys.map((key) => ({ kind: 'create', key, wanted: '0' })));
    const messages = refused.messages.filter((_, index) => refused.errors[index] !== undefined);
    return (await this.#jobs.run([{ namespaceFd, messages }])) === undefined;
  }

  async #deleteNow(name: string): Promise<KernelError | undefined> {
    const message = {
      type: RTM_DELLINK,
      flags: 0,
      payload: encodeLink({ name }),
      operation: `RTM_DELLINK ${name}`,
    };
    const [error] = await this.#socket.submit([message]);
    return isMissing(error) ? undefined : error;
  }

  #hasIpv6({ mtuBytes = ipv6MtuMinBytes }: AttachmentRow): boolean {
    return this.#kernelHasIpv6 && mtuBytes >= ipv6MtuMinBytes;
  }

  #knownMaster({ bridge }: AttachmentRow): number | undefined {
    return bridge === undefined ? 0 : this.#bridges.get(bridge);
  }

  /** Index of the bridge, 0 for none; undefined when it is not there. */
  async #masterOf(row: AttachmentRow): Promise<number | undefined> {
    return this.#knownMaster(row) ?? (await this.#lookUpBridge(row.bridge ?? ''));
  }

  async #lookUpBridge(name: string): Promise<number | undefined> {
    const index = (await this.#link(name))?.index;
    if (index !== undefined) this.#bridges.set(name, index);
    return index;
  }

  async #isBridgeGone(name: string, master: number): Promise<boolean> {
    this.#bridges.delete(name);
    return (await this.#lookUpBridge(name)) !== master;
  }

  async #link(name: string): Promise<Link | undefined> {
    try {
      const [answer] = await this.#socket.request(getLinkMessage({ name }));
      return answer === undefined ? undefined : decodeLink(answer.payload);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  /** Await {@link flush} first. */
  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
    this.#jobs[Symbol.dispose]();
    this.#slowJobs[Symbol.dispose]();
  }
}

/** Whether the two steps follow each other without anything between or after them. */
function isPlain({ host, pod }: AttachmentRow): boolean {
  const isRouterless = host === undefined || host.addresses.some((address) => familyOf(address) === 6);
  return isRouterless && pod?.detectsDuplicates !== true;
}

function missingBridge({ bridge }: AttachmentRow): KernelError {
  return new KernelError(`RTM_GETLINK ${bridge}`, constants.errno.ENODEV);
}

async function hasLink({ namespaceFd, ifname }: AttachmentPod): Promise<boolean> {
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
  const [error] = await socket.submit([getLinkMessage({ name: ifname })]);
  return error === undefined;
}

/** A veth end of ours as a row; undefined for every other link. */
function attachmentOf(
  link: Link,
  names: ReadonlyMap<number | undefined, string | undefined>,
): AttachmentRow | undefined {
  const { name, alias, kind, masterIndex, mtuBytes, bridgePort, group, flags = 0 } = link;
  if (kind !== 'veth' || name === undefined || !alias?.startsWith(attachmentAliasPrefix)) return undefined;
  // By the mark alone: others set links down, too, or delete the bridge below them.
  const isQuiesced = isReapGroup(group);
  const bridge = names.get(masterIndex);
  const { hairpin, isolated } = bridgePort ?? {};
  const isHostDown = (flags & IFF_UP) === 0;
  return { hostName: name, alias, bridge, mtuBytes, hairpin, isolated, isQuiesced, isHostDown };
}
