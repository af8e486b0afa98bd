import { families } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { type VirtualServerRow, VirtualServerTable } from '../kernel/ipvs.ts';
import { IpvsMissingError, IpvsSocket } from '../kernel/ipvs-socket.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import { removal } from '../proxy/iptables/compare.ts';
import { IptablesPrograms } from '../proxy/iptables/program.ts';
import { removeIptables } from '../proxy/iptables/remove.ts';
import { parseSave } from '../proxy/iptables/save.ts';
import { savedOrNothing, variants } from '../proxy/iptables/variant.ts';
import type { ProxyRecord, SettingRecord } from './proxy-record.ts';

/*
 * Tables of what a service proxy left and does not stand in tables of nftables with our name. Their rows can only be
 * removed.
 */

/** The chains of the proxy's mode iptables. They are named as kube-proxy's: without our record they are not ours. */
export class OwnedProxyChains implements Table<string, string> {
  readonly name = 'proxy chain';
  readonly #isOurs: boolean;

  constructor({ mode }: ProxyRecord) {
    this.#isOurs = mode === 'iptables';
  }

  same(): boolean {
    return true;
  }

  async read(): Promise<Map<string, string>> {
    const rows = new Map<string, string>();
    if (!this.#isOurs) return rows;
    for (const variant of [undefined, ...variants]) {
      const programs = new IptablesPrograms({ variant });
      for (const family of families) {
        const { remove } = removal(parseSave(await savedOrNothing(programs, family)));
        for (const { table, name } of remove) rows.set(`IPv${family} ${table} ${name}`, name);
      }
    }
    return rows;
  }

  /** All of them go, or the programs say why not. */
  async write(changes: readonly Change<string, string>[]): Promise<Failure<string>[]> {
    try {
      await removeIptables();
      return [];
    } catch (error) {
      return changes.map(({ key, kind }) => ({ key, kind, error: error as Error }));
    }
  }
}

/** Virtual servers of the proxy's mode IPVS, by the mark that they have. */
export class OwnedServers implements Table<string, VirtualServerRow> {
  readonly name = 'ipvs-server';

  same(): boolean {
    return true;
  }

  async read(): Promise<Map<string, VirtualServerRow>> {
    return (await this.#with((servers) => servers.read())) ?? new Map();
  }

  async write(changes: readonly Change<string, VirtualServerRow>[]): Promise<Failure<string>[]> {
    return (await this.#with((servers) => servers.write(changes))) ?? [];
  }

  /** Undefined where there is no IPVS: nothing of it can be there. */
  async #with<T>(use: (servers: VirtualServerTable) => Promise<T>): Promise<T | undefined> {
    try {
      using ipvs = await IpvsSocket.open({ load: false });
      return await use(new VirtualServerTable({ ipvs }));
    } catch (error) {
      if (error instanceof IpvsMissingError) return undefined;
      throw error;
    }
  }
}

/** Settings that are still as the proxy made them. To remove one is to put back what was there before. */
export class OwnedSettings implements Table<string, SettingRecord> {
  readonly name = 'sysctl';
  readonly #records: ReadonlyMap<string, SettingRecord>;
  readonly #table: SysctlTable;

  constructor({ sysctls }: ProxyRecord) {
    this.#records = new Map(Object.entries(sysctls));
    this.#table = new SysctlTable({ keys: [...this.#records.keys()] });
  }

  same(): boolean {
    return true;
  }

  async read(): Promise<Map<string, SettingRecord>> {
    const actual = await this.#table.read();
    return new Map(
      [...this.#records].filter(([key, { before, after }]) => before !== after && actual.get(key) === after),
    );
  }

  async write(changes: readonly Change<string, SettingRecord>[]): Promise<Failure<string>[]> {
    const restored = changes.flatMap((change) => {
      if (change.kind !== 'delete') return [];
      const { key, actual } = change;
      return [{ kind: 'update', key, wanted: actual.before, actual: actual.after } as const];
    });
    const failures = await this.#table.write(restored);
    return failures.map(({ key, error }) => ({ key, kind: 'delete', error }));
  }
}
