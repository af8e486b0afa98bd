import { readFileIfThere, writeFileAtomic } from './state-file.ts';

/** One of the kernel's settings: as it was, and as the agent wants it. */
export interface SettingRecord {
  readonly before: string;
  readonly after: string;
}

/** By key, such as "net/ipv4/ip_forward". */
export type SettingsRecord = Readonly<Record<string, SettingRecord>>;

export const settingsRecordName = 'settings.json';

/** What the agent changed on this machine, for those who undo it. A file that cannot be read says nothing. */
export function readSettingsRecord(path: string): SettingsRecord {
  try {
    return JSON.parse(readFileIfThere(path) ?? '{}') as SettingsRecord;
  } catch {
    return {};
  }
}

/**
 * Puts on record what is about to be changed. What a setting was is told by the first change: what comes later changes
 * what we, or somebody after us, made of it. Throws where the file cannot be written.
 */
export function recordSettings(
  path: string,
  wanted: ReadonlyMap<string, string>,
  actual: ReadonlyMap<string, string>,
): void {
  const known = readSettingsRecord(path);
  const changed = [...wanted].flatMap(([key, after]) => {
    const before = known[key]?.before ?? actual.get(key);
    const isNew = actual.get(key) !== after && known[key]?.after !== after;
    return isNew && before !== undefined ? [[key, { before, after }] as const] : [];
  });
  if (changed.length === 0) return;
  writeFileAtomic(path, `${JSON.stringify({ ...known, ...Object.fromEntries(changed) })}\n`);
}
