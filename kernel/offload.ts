import type { Change, Failure, Table } from '../core/rows.ts';
import { type Descriptor, native } from '../native/index.ts';
import { KernelError } from './errors.ts';

/** Whether the transport checksums of packets that leave by a link are left to what is below it (ethtool -K … tx). */
export interface OffloadRow {
  readonly device: string;
  readonly transmitChecksum: boolean;
}

export function offloadKey(row: OffloadRow): string {
  return row.device;
}

/** uapi/linux/ethtool.h */
const ETHTOOL_GTXCSUM = 0x16;
const ETHTOOL_STXCSUM = 0x17;
const AF_INET = 2;
const SOCK_DGRAM = 2;

/** Offloads of the given links; as with sysctls there is no mark of ownership, and no row is ever removed. */
export class OffloadTable implements Table<string, OffloadRow> {
  readonly name = 'offload';
  readonly #devices: readonly string[];
  readonly #namespaceFd: Descriptor;

  constructor({
    devices,
    namespaceFd = -1,
  }: { devices: readonly string[]; namespaceFd?: Descriptor | undefined }) {
    this.#devices = devices;
    this.#namespaceFd = namespaceFd;
  }

  same(wanted: OffloadRow, actual: OffloadRow): boolean {
    return wanted.transmitChecksum === actual.transmitChecksum;
  }

  /** Links that are not there, or cannot say, are not in the answer. */
  async read(): Promise<Map<string, OffloadRow>> {
    const rows = new Map<string, OffloadRow>();
    this.#withSocket((fd) => {
      for (const device of this.#devices) {
        const value = transmitChecksum(fd, device);
        if (value !== undefined) rows.set(device, { device, transmitChecksum: value });
      }
    });
    return rows;
  }

  async write(changes: readonly Change<string, OffloadRow>[]): Promise<Failure<string>[]> {
    const failures: Failure<string>[] = [];
    this.#withSocket((fd) => {
      for (const change of changes) {
        if (change.kind === 'delete') continue;
        const { device, transmitChecksum: on } = change.wanted;
        // A link that was made in this pass has come with the kernel's own value: often the wanted one.
        if (transmitChecksum(fd, device) === on) continue;
        try {
          native.ethtool(fd, device, ETHTOOL_STXCSUM, on ? 1 : 0);
        } catch (error) {
          const failed = KernelError.from(`ETHTOOL_STXCSUM ${device}`, error);
          failures.push({ key: change.key, kind: change.kind, error: failed as Error });
        }
      }
    });
    return failures;
  }

  #withSocket(use: (fd: Descriptor) => void): void {
    if (this.#devices.length === 0) return;
    const fd = native.openSocket(this.#namespaceFd, AF_INET, SOCK_DGRAM, 0, 0);
    try {
      use(fd);
    } finally {
      native.close(fd);
    }
  }
}

function transmitChecksum(fd: Descriptor, device: string): boolean | undefined {
  try {
    return native.ethtool(fd, device, ETHTOOL_GTXCSUM, 0) !== 0;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'ENODEV' || code === 'EOPNOTSUPP') return undefined;
    throw KernelError.from(`ETHTOOL_GTXCSUM ${device}`, error);
  }
}
