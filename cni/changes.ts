import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type { HostCidr } from '../core/address.ts';
import type { Log } from './log.ts';

/** A parameter of the kernel: as it was, and as the plugin left it. */
export interface SettingChange {
  readonly before: string;
  readonly after: string;
}

/** What was done to a bridge that somebody else made. */
export interface BridgeChange {
  /** Given to it. */
  readonly addresses: readonly HostCidr[];
  /** Whether it takes in every frame since. */
  readonly promiscuous?: boolean | undefined;
}

/** What the plugin changed of things that are not its own, for those who undo it. */
export interface NodeChanges {
  /** By path below /proc/sys. */
  readonly settings: Readonly<Record<string, SettingChange>>;
  /** By name. */
  readonly bridges: Readonly<Record<string, BridgeChange>>;
  /** Keys of the sources that firewalld's zones were given. */
  readonly sources: readonly string[];
}

/** In the directory of the plugin's state. */
export const changesName = 'changes.json';

/** A file that is not there, or cannot be read, says nothing. */
export function readChanges(path: string): NodeChanges {
  try {
    const changes = JSON.parse(readFileSync(path, 'utf8')) as Partial<NodeChanges>;
    const { settings = {}, bridges = {}, sources = [] } = changes;
    return { settings, bridges, sources };
  } catch {
    return { settings: {}, bridges: {}, sources: [] };
  }
}

/** Writes {@link NodeChanges} down before they are made. */
export class ChangeRecord {
  readonly #path: string;
  readonly #log: Log;
  readonly #seen = new Set<string>();
  #changes: NodeChanges;

  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
    this.#changes = readChanges(path);
  }

  /** As {@link setting}; what the parameter is now is asked for the first time only. */
  settingOnce(key: string, read: () => string | undefined, after: string): void {
    const change = `${key} ${after}`;
    if (this.#seen.has(change)) return;
    this.#seen.add(change);
    const before = read();
    if (before !== undefined) this.setting(key, before, after);
  }

  /** What a parameter was before is told by its first change. */
  setting(key: string, before: string, after: string): void {
    const known = this.#changes.settings[key];
    if (known?.after === after || before === after) return;
    const change = { before: known?.before ?? before, after };
    this.#put({ settings: { ...this.#changes.settings, [key]: change } });
  }

  bridge(name: string, { addresses, promiscuous }: BridgeChange): void {
    const known = this.#changes.bridges[name] ?? { addresses: [] };
    const all = [...new Set([...known.addresses, ...addresses])];
    const isPromiscuous = known.promiscuous === true || promiscuous === true;
    if (all.length === known.addresses.length && isPromiscuous === (known.promiscuous ?? false)) return;
    const change = { addresses: all, ...(isPromiscuous && { promiscuous: true }) };
    this.#put({ bridges: { ...this.#changes.bridges, [name]: change } });
  }

  get sources(): readonly string[] {
    return this.#changes.sources;
  }

  /** The only changes that end with their pods. */
  changeSources(added: readonly string[], removed: readonly string[]): void {
    const sources = new Set(this.#changes.sources);
    for (const source of added) sources.add(source);
    for (const source of removed) sources.delete(source);
    const isSame = sources.symmetricDifference(new Set(this.#changes.sources)).size === 0;
    if (!isSame) this.#put({ sources: [...sources] });
  }

  /** Without a record pods are served all the same. */
  #put(change: Partial<NodeChanges>): void {
    this.#changes = { ...this.#changes, ...change };
    try {
      writeFileSync(`${this.#path}.new`, `${JSON.stringify(this.#changes)}\n`, { mode: 0o600 });
      renameSync(`${this.#path}.new`, this.#path);
    } catch (error) {
      const text = 'what the plugin changes is not on record for a clean-up';
      this.#log.warn({ error: (error as Error).message }, text);
    }
  }
}
