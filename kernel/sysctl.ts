import { constants, readFileSync, writeSync } from 'node:fs';
import type { Change, Failure, Table } from '../core/rows.ts';
import { type Descriptor, native } from '../native/index.ts';
import { KernelError } from './errors.ts';

/** Key: the path below /proc/sys, such as "net/ipv4/ip_forward"; value: its text, fields parted by one space. */
export type SysctlRow = string;

/**
 * Kernel parameters of a network namespace. There is no mark of ownership on them: the table is of the keys
 * it is given, and none is ever removed. Keys that the kernel does not have are not read.
 */
export class SysctlTable implements Table<string, SysctlRow> {
  readonly name = 'sysctl';
  readonly #keys: readonly string[];
  readonly #namespaceFd: Descriptor;

  constructor({ keys, namespaceFd = -1 }: { keys: readonly string[]; namespaceFd?: Descriptor | undefined }) {
    this.#keys = keys.map(checkKey);
    this.#namespaceFd = namespaceFd;
  }

  same(wanted: SysctlRow, actual: SysctlRow): boolean {
    return fieldsOf(wanted) === fieldsOf(actual);
  }

  async read(): Promise<Map<string, SysctlRow>> {
    const rows = new Map<string, SysctlRow>();
    for (const key of this.#keys) {
      const value = this.readKey(key);
      if (value !== undefined) rows.set(key, value);
    }
    return rows;
  }

  async write(changes: readonly Change<string, SysctlRow>[]): Promise<Failure<string>[]> {
    const failures: Failure<string>[] = [];
    for (const change of changes) {
      if (change.kind === 'delete') continue;
      try {
        this.#with(checkKey(change.key), constants.O_WRONLY, (fd) => writeSync(fd, change.wanted));
      } catch (error) {
        failures.push({ key: change.key, kind: change.kind, error: error as Error });
      }
    }
    return failures;
  }

  /** Undefined: the kernel has no such key. Throws KernelError. */
  readKey(key: string): string | undefined {
    try {
      return this.#with(key, constants.O_RDONLY, (fd) => fieldsOf(readFileSync(fd, 'utf8')));
    } catch (error) {
      // Some are there to be written only.
      if (error instanceof KernelError && (error.code === 'ENOENT' || error.code === 'EACCES'))
        return undefined;
      throw error;
    }
  }

  /** /proc/sys/net shows the namespace of the thread that opens it. */
  #with<T>(key: string, flags: number, use: (fd: Descriptor) => T): T {
    try {
      const fd = native.openFile(this.#namespaceFd, `/proc/sys/${key}`, flags);
      try {
        return use(fd);
      } finally {
        native.close(fd);
      }
    } catch (error) {
      throw KernelError.from(`sysctl ${key}`, error);
    }
  }
}

function fieldsOf(value: string): string {
  return value.trim().split(/\s+/).join(' ');
}

/** Slashes, not dots: names of links have dots in them, and may have any bytes but slashes and white space. */
function checkKey(key: string): string {
  const isPath = /^[^\s/\0]+(\/[^\s/\0]+)+$/u.test(key);
  if (isPath && !key.split('/').some((name) => name === '.' || name === '..')) return key;
  throw new TypeError(`sysctl key "${key}": a path such as "net/ipv4/ip_forward" is expected`);
}
