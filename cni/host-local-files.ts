import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Ip, parseIp } from '../core/address.ts';
import type { AddressLeases } from './address-leases.ts';
import { type RangeSet, rangeFor } from './ranges.ts';
import { defaultDataDir } from './types/host-local.ts';

/** What a folder said when it was read. */
interface Seen {
  /** Undefined: it was just being written to, and is to be read again. */
  readonly changedMs: number | undefined;
  readonly ips: readonly Ip[];
}

/** File systems note the time of a change by ticks of up to 10 ms: what comes in the same one is not seen. */
const tickMs = 20;

/** When something was last put into the folder or taken out of it; 0: there is no such folder. */
export function changedMs(directory: string): number {
  return statSync(directory, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** Whether whatever comes later changes the time that was read. Ask before reading what is in the folder. */
export function isSettled(changed: number): boolean {
  return Date.now() - changed > tickMs;
}

/**
 * Keeps the node's own addresses from being given while a file of host-local, of whatever network, says that a pod has
 * them: pods that were there before Fairlead was. The files stay, as does the plugin that removes them when these pods
 * end.
 *
 * Each call costs one stat(2) for the folder of all networks and, if it is there, one for each network's. Nothing is
 * remembered beyond these: an operator may go back to the old configuration and return while the agent runs.
 */
export class HostLocalFiles {
  readonly #leases: AddressLeases;
  readonly #seen = new Map<string, Seen>();
  readonly #held = new Set<Ip>();
  #networks:
    | { readonly dataDir: string; readonly changedMs: number; readonly directories: string[] }
    | undefined;
  #rangeSets: readonly RangeSet[] | undefined;

  constructor(leases: AddressLeases) {
    this.#leases = leases;
  }

  /** To be called before an address of these sets is given: those in files are held from now on. */
  avoid(rangeSets: readonly RangeSet[], dataDir = defaultDataDir): void {
    const directories = this.#directoriesIn(dataDir);
    if (directories.length + this.#seen.size === 0) return;
    if (this.#rangeSets !== rangeSets) this.#seen.clear();
    this.#rangeSets = rangeSets;
    let isChanged = this.#drop(directories);
    for (const directory of directories) isChanged = this.#look(directory, rangeSets) || isChanged;
    if (isChanged) this.#hold();
  }

  /** Somebody else answers for the address, if it was held here. */
  release(ip: Ip): void {
    if (!this.#held.delete(ip)) return;
    this.#leases.giveBack(holderOf(ip));
    // Read again: the file may be there still.
    this.#seen.clear();
  }

  /** Who holds the address by its lease, not by its file. */
  holderOf(ip: Ip): string | undefined {
    return this.#held.has(ip) ? undefined : this.#leases.holderOf(ip);
  }

  #directoriesIn(dataDir: string): readonly string[] {
    const changed = changedMs(dataDir);
    if (changed === 0) return [];
    if (this.#networks?.dataDir === dataDir && this.#networks.changedMs === changed) {
      return this.#networks.directories;
    }
    const settled = isSettled(changed);
    const entries = readdirSync(dataDir, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    const directories = entries.map(({ name }) => join(dataDir, name));
    this.#networks = settled ? { dataDir, changedMs: changed, directories } : undefined;
    return directories;
  }

  #drop(directories: readonly string[]): boolean {
    const gone = [...this.#seen.keys()].filter((directory) => !directories.includes(directory));
    for (const directory of gone) this.#seen.delete(directory);
    return gone.length > 0;
  }

  #look(directory: string, rangeSets: readonly RangeSet[]): boolean {
    const changed = changedMs(directory);
    if (this.#seen.get(directory)?.changedMs === changed) return false;
    const settled = isSettled(changed);
    const ips = changed === 0 ? [] : addressesIn(directory, rangeSets);
    this.#seen.set(directory, { changedMs: settled ? changed : undefined, ips });
    return true;
  }

  #hold(): void {
    const wanted = new Set([...this.#seen.values()].flatMap(({ ips }) => ips));
    for (const ip of this.#held) {
      if (wanted.has(ip)) continue;
      this.#held.delete(ip);
      this.#leases.giveBack(holderOf(ip));
    }
    for (const ip of wanted) {
      if (this.#leases.holderOf(ip) !== undefined) continue;
      this.#leases.hold(holderOf(ip), [ip]);
      this.#held.add(ip);
    }
  }
}

/** No attachment's key has a space. */
function holderOf(ip: Ip): string {
  return `host-local file ${ip}`;
}

function addressesIn(directory: string, rangeSets: readonly RangeSet[]): Ip[] {
  return readdirSync(directory).flatMap((name) => {
    const ip = parseIp(name);
    return ip !== undefined && rangeSets.some((set) => rangeFor(set, ip) !== undefined) ? [ip] : [];
  });
}
