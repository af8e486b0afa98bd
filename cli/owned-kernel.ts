import type { NodeChanges } from '../cni/changes.ts';
import { FirewalldTable } from '../cni/firewalld/table.ts';
import { IptablesTable } from '../cni/iptables/table.ts';
import { reconcile } from '../core/reconcile.ts';
import { layer, type Table } from '../core/rows.ts';
import { forwardTables } from '../daemon/iptables-forward.ts';
import { FilterPrograms } from '../daemon/iptables-programs.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { openNftSocket } from '../kernel/nftables.ts';
import { OwnedLinks, OwnedNftTables } from '../kernel/owned.ts';
import { QdiscTable } from '../kernel/qdisc.ts';
import { RouteTable } from '../kernel/route.ts';
import { RuleTable } from '../kernel/rule.ts';
import { BridgeGuests } from './owned-bridges.ts';
import { OwnedProxyChains, OwnedServers, OwnedSettings } from './owned-proxy.ts';
import type { ProxyRecord } from './proxy-record.ts';

/** Of the routes to one destination a table shows the first; another may come to light when it is gone. */
const passesMax = 8;

/** A row of ours in the kernel that could not be removed. */
export interface Left {
  readonly table: string;
  readonly key: string;
  readonly error: string;
}

/**
 * All that is ours in the kernel, of this process's network namespace: rows that nobody wants any more. Addresses,
 * neighbours and forwarding entries are on links of ours and go with them. Settings (sysctl), and what the plugin did to
 * bridges of others, are not rows: what is on record of them is undone.
 */
export class OwnedRows implements Disposable {
  readonly #stack = new DisposableStack();
  readonly #iptables = new IptablesTable();
  /** What is made later rests on what is made before; it is removed in the other direction. */
  readonly #tables: readonly Table<string, unknown>[];

  constructor(record: ProxyRecord, { bridges, sources }: Pick<NodeChanges, 'bridges' | 'sources'>) {
    const socket = this.#stack.use(NetlinkSocket.open(NETLINK_ROUTE));
    const nftSocket = this.#stack.use(openNftSocket());
    this.#tables = [
      new OwnedSettings(record),
      new BridgeGuests({ socket, bridges }),
      new OwnedLinks({ socket }),
      new QdiscTable({ socket }),
      new RouteTable({ socket }),
      new RuleTable({ socket }),
      this.#iptables,
      // The record itself goes with the agent's files.
      new FirewalldTable({
        busAddress: process.env.DBUS_SYSTEM_BUS_ADDRESS,
        record: { sources, changeSources: () => {} },
      }),
      new OwnedNftTables({ socket: nftSocket }),
      ...forwardTables(new FilterPrograms({ socket: nftSocket })),
      new OwnedProxyChains(record),
      new OwnedServers(),
    ].map((table) => table as unknown as Table<string, unknown>);
  }

  /** Keys of what there is, by the table's name. */
  async list(): Promise<Map<string, string[]>> {
    const found = new Map<string, string[]>();
    for (const table of this.#tables) found.set(table.name, [...(await table.read()).keys()].toSorted());
    return found;
  }

  /** Goes past what cannot be removed. `onProgress` is told for each table how many rows of it are gone. */
  async remove(onProgress: (table: string, rows: number) => void): Promise<Left[]> {
    const left: Left[] = [];
    for (const table of this.#tables.toReversed()) {
      const { name } = table;
      try {
        const { removed, failures } = await empty(table);
        left.push(...failures);
        if (removed > 0) onProgress(name, removed);
        // Chains are no rows.
        if (name === this.#iptables.name) await this.#iptables.remove();
      } catch (error) {
        left.push({ table: name, key: '', error: (error as Error).message });
      }
    }
    return left;
  }

  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }
}

async function empty(table: Table<string, unknown>): Promise<{ removed: number; failures: Left[] }> {
  let removed = 0;
  for (let pass = 1; ; pass += 1) {
    const { writes, failures } = await reconcile([layer(table, new Map())]);
    removed += writes - failures.length;
    if (writes > failures.length && pass < passesMax) continue;
    const rows = failures.map(({ key, error }) => ({
      table: table.name,
      key: String(key),
      error: error.message,
    }));
    return { removed, failures: rows };
  }
}
