import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../proxy/backend.ts';
import { OwnedSettings } from './owned-proxy.ts';

export const recordName = 'proxy.json';

/** What a service proxy did to this machine that its rows do not tell; it is for those who undo it. */
export interface ProxyRecord {
  /** Whose rules are there. Those of iptables are named as kube-proxy's: only this says that they are ours. */
  readonly mode?: Backend['name'] | undefined;
  /** The kernel's settings by key: as they were, and as the proxy left them. */
  readonly sysctls: Readonly<Record<string, SettingRecord>>;
}

export interface SettingRecord {
  readonly before: string;
  readonly after: string;
}

const nothing: ProxyRecord = { sysctls: {} };

/** Of a runtime directory. A file that cannot be read says nothing. */
export function readProxyRecord(runDir: string): ProxyRecord {
  const path = join(runDir, recordName);
  if (!existsSync(path)) return nothing;
  try {
    const { mode, sysctls } = JSON.parse(readFileSync(path, 'utf8')) as Partial<ProxyRecord>;
    return { mode, sysctls: sysctls ?? {} };
  } catch {
    return nothing;
  }
}

/** Throws where the file cannot be written. */
export function writeProxyRecord(runDir: string, record: ProxyRecord): void {
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  const path = join(runDir, recordName);
  writeFileSync(`${path}.new`, `${JSON.stringify(record)}\n`, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** The record with settings that were written now. Of two values before, the older one is what a setting was. */
export function withSettings(
  record: ProxyRecord,
  written: ReadonlyMap<string, string>,
  replaced: ReadonlyMap<string, string>,
): ProxyRecord {
  const sysctls = { ...record.sysctls };
  for (const [key, after] of written) {
    const before = sysctls[key]?.before ?? replaced.get(key);
    if (before !== undefined) sysctls[key] = { before, after };
  }
  return { ...record, sysctls };
}

/**
 * Puts a setting back that still is as the proxy left it, and forgets it; whether that was to be done. Throws KernelError
 * where it cannot be written, and where the record cannot be.
 */
export async function restoreSetting(runDir: string, key: string): Promise<boolean> {
  const { sysctls, ...record } = readProxyRecord(runDir);
  const { [key]: setting, ...others } = sysctls;
  if (setting === undefined) return false;
  const settings = new OwnedSettings({ sysctls: { [key]: setting } });
  const ours = await settings.read();
  const [failure] = await settings.write(
    Array.from(ours, ([name, actual]) => ({ kind: 'delete', key: name, actual })),
  );
  if (failure !== undefined) throw failure.error;
  writeProxyRecord(runDir, { ...record, sysctls: others });
  return ours.size > 0;
}
