import { readdir, readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { type Ip, parseIp } from '../core/address.ts';
import { type AddressLeases, recordAddressLease } from './address-leases.ts';
import { CniError, cniCode } from './error.ts';
import { FieldReader, type Fields } from './fields.ts';
import { changedMs, HostLocalFiles, isSettled } from './host-local-files.ts';
import { type AttachmentId, attachmentKey } from './part.ts';
import { poolStateAfter } from './pool.ts';
import { type RangeSet, readRangeSets } from './ranges.ts';
import { readDataDir } from './types/host-local.ts';

/** One file of host-local's folder of a network. */
export interface HostLocalFile {
  readonly name: string;
  readonly content: string;
}

/** Addresses of one attachment, with the files that say so. */
interface FileLease extends AttachmentId {
  readonly addresses: readonly Ip[];
  readonly files: readonly string[];
}

/** What the files of one network say. */
export interface ImportPlan {
  /** To be held from now on. */
  readonly leases: readonly FileLease[];
  /** Files whose addresses are held by the same attachment already: an import that was cut short. */
  readonly done: readonly string[];
  /** Files that cannot be taken over, and why. They stay where they are. */
  readonly refused: readonly string[];
  /** The address given last out of the range set of that index. */
  readonly last: ReadonlyMap<number, Ip>;
}

/** What {@link HostLocalImport} has taken over. */
export interface ImportReport {
  readonly network: string;
  readonly directory: string;
  readonly leases: number;
  readonly addresses: number;
  readonly refused: readonly string[];
}

const lastPrefix = 'last_reserved_ip.';

/**
 * Whose the addresses are by host-local's files: the name is the address, the content `containerID\r\nifname` or, by
 * its first versions, only the containerID. A file without a readable holder, such as one whose writer was cut short,
 * is held by nobody that could give it back: that is left to GC.
 */
export function planImport(
  network: string,
  files: readonly HostLocalFile[],
  holderOf: (ip: Ip) => string | undefined,
): ImportPlan {
  const leases = new Map<string, FileLease & { addresses: Ip[]; files: string[] }>();
  const [done, refused] = [[] as string[], [] as string[]];
  for (const { name, content } of files) {
    const ip = parseIp(name);
    if (ip === undefined) continue;
    const id = { network, ...parseHolder(content) };
    const key = attachmentKey(id);
    const holder = holderOf(ip);
    if (holder === key) done.push(name);
    else if (holder !== undefined) refused.push(`${name}: held by ${holder}, not by ${key}`);
    else {
      const lease = leases.get(key) ?? { ...id, addresses: [], files: [] };
      lease.addresses.push(ip);
      lease.files.push(name);
      leases.set(key, lease);
    }
  }
  return { leases: [...leases.values()], done, refused, last: lastOf(files) };
}

const holderRule = /^([a-zA-Z0-9][a-zA-Z0-9_.-]*)\s*(?:\n([^/:\s]{1,15}))?$/;

function parseHolder(content: string): { containerId: string; ifname: string } {
  const [, containerId = '', ifname = ''] = holderRule.exec(content.trim()) ?? [];
  return { containerId, ifname };
}

function lastOf(files: readonly HostLocalFile[]): ReadonlyMap<number, Ip> {
  const last = new Map<number, Ip>();
  for (const { name, content } of files) {
    const ip = name.startsWith(lastPrefix) ? parseIp(content.trim()) : undefined;
    if (ip !== undefined) last.set(Number(name.slice(lastPrefix.length)), ip);
  }
  return last;
}

export interface HostLocalImportOptions {
  readonly leases: AddressLeases;
  readonly onReport: (report: ImportReport) => void;
}

/** The folder of a network. */
interface Source {
  readonly network: string;
  readonly directory: string;
  /** In the order of its `last_reserved_ip` files. */
  readonly rangeSets: () => readonly RangeSet[];
}

/** Files that come into a folder while it is read make another pass; no more than these. */
const passesMax = 5;
/** Between creating a file and writing into it, host-local is given this long. */
const unfinishedMs = 50;

/**
 * Takes over what the reference plugin host-local keeps in files: its addresses count as held by the same
 * attachments, and its files are removed, so that nothing is taken over twice and a reboot frees everything. A
 * network's folder is looked at again whenever something was put into it.
 */
export class HostLocalImport {
  readonly #leases: AddressLeases;
  readonly #onReport: (report: ImportReport) => void;
  /** Change time of a folder when all of it that counts was known; 0: there was none. */
  readonly #seen = new Map<string, number>();
  /** By folder. */
  readonly #running = new Map<string, Promise<true>>();
  readonly #files: HostLocalFiles;
  /** What could not be taken over, by folder, as it was last told. */
  readonly #refused = new Map<string, string>();

  constructor({ leases, onReport }: HostLocalImportOptions) {
    this.#leases = leases;
    this.#onReport = onReport;
    this.#files = new HostLocalFiles(leases);
  }

  /**
   * Must be true before an address of the network is given, taken back or counted. It is at once, at the price of
   * one stat(2), when there is nothing new. The promise fails with CniError.
   */
  ensure(network: string, config: Fields): true | Promise<true> {
    const directory = join(readDataDir(config), network);
    const running = this.#running.get(directory);
    if (running !== undefined) return running;
    if (changedMs(directory) === (this.#seen.get(directory) ?? 0)) return true;
    const source = { network, directory, rangeSets: () => rangeSetsOf(config) };
    const importing = this.#import(source).finally(() => this.#running.delete(directory));
    this.#running.set(directory, importing);
    return importing;
  }

  /** The same for the node's own range sets: see {@link HostLocalFiles.avoid}. */
  avoid(rangeSets: readonly RangeSet[], config: Fields): void {
    this.#files.avoid(rangeSets, readDataDir(config));
  }

  async #import(source: Source): Promise<true> {
    const { directory } = source;
    try {
      for (let pass = 0; pass < passesMax; pass += 1) {
        const changed = changedMs(directory);
        const settled = isSettled(changed);
        const { report, removed } = await this.#take(source, await readFiles(directory));
        if (report.addresses > 0 || this.#isNews(report)) this.#onReport(report);
        if (removed > 0) continue;
        if (settled) this.#seen.set(directory, changed);
        return true;
      }
      throw new Error(`it did not come to rest in ${passesMax} passes`);
    } catch (error) {
      const text = `failed to take over ${directory}: ${(error as Error).message}`;
      throw new CniError(cniCode.ioFailure, text);
    }
  }

  async #take(
    { network, directory, rangeSets }: Source,
    files: readonly HostLocalFile[],
  ): Promise<{ report: ImportReport; removed: number }> {
    const plan = planImport(network, files, (ip) => this.#files.holderOf(ip));
    if (plan.last.size > 0) this.#beginPools(rangeSets(), plan.last);
    const report = { network, directory, leases: 0, addresses: 0, refused: [...plan.refused] };
    let removed = 0;
    const removeAll = async (names: readonly string[]) => {
      for (const name of names) {
        const error = await remove(join(directory, name));
        if (error === undefined) removed += 1;
        else report.refused.push(`${name}: ${error}`);
      }
    };
    await removeAll(plan.done);
    for (const lease of plan.leases) {
      if (this.#adopt(lease)) {
        report.leases += 1;
        report.addresses += lease.addresses.length;
        await removeAll(lease.files);
      } else report.refused.push(`${lease.files}: ${attachmentKey(lease)} or its addresses are held already`);
    }
    return { report, removed };
  }

  /** An attachment that has other addresses of ours gets these beside them, until GC. */
  #adopt(lease: FileLease): boolean {
    const holder = [lease, { ...lease, ifname: '' }].find((id) => !this.#holds(attachmentKey(id)));
    const isTaken = lease.addresses.some((ip) => this.#files.holderOf(ip) !== undefined);
    if (holder === undefined || isTaken) return false;
    for (const ip of lease.addresses) this.#files.release(ip);
    this.#leases.hold(attachmentKey(holder), lease.addresses);
    recordAddressLease(this.#leases, holder, lease.addresses);
    return true;
  }

  /** A folder that is read again is not told of again. */
  #isNews({ directory, refused }: ImportReport): boolean {
    const text = refused.join();
    const isNews = text !== (this.#refused.get(directory) ?? '');
    this.#refused.set(directory, text);
    return isNews && text !== '';
  }

  #holds(key: string): boolean {
    return this.#leases.get(key).some(({ addresses }) => addresses !== undefined);
  }

  /** What host-local gave and took back shortly before rests as well: its order goes on behind the last one. */
  #beginPools(sets: readonly RangeSet[], last: ReadonlyMap<number, Ip>): void {
    for (const [index, ip] of last) {
      const set = sets[index];
      const state = set === undefined ? undefined : poolStateAfter(set, ip);
      if (set !== undefined && state !== undefined) this.#leases.openPool(set, state);
    }
  }
}

function rangeSetsOf(config: Fields): readonly RangeSet[] {
  const reader = new FieldReader(config, []);
  return readRangeSets(reader.object('ipam'), reader.object('runtimeConfig'));
}

async function readFiles(directory: string): Promise<HostLocalFile[]> {
  const files: HostLocalFile[] = [];
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const { name } = entry;
    if (!entry.isFile() || !(name.startsWith(lastPrefix) || parseIp(name) !== undefined)) continue;
    const content = await readFinished(join(directory, name));
    if (content !== undefined) files.push({ name, content });
  }
  return files;
}

/** Undefined: it is gone. */
async function readFinished(path: string): Promise<string | undefined> {
  try {
    const content = await readFile(path, 'utf8');
    if (content !== '') return content;
    await setTimeout(unfinishedMs);
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** What went wrong, if something did. */
async function remove(path: string): Promise<string | undefined> {
  try {
    await unlink(path);
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? undefined : (error as Error).message;
  }
}
