import type { Cidr, Family, Ip } from '../../core/address.ts';
import { cidrContains, familyOf } from '../../core/address.ts';
import { applyChanges } from '../../core/reconcile.ts';
import { type Change, layer } from '../../core/rows.ts';
import { nftRange } from '../../kernel/netlink/nftables/keys.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { NftTable } from '../../kernel/nftables.ts';
import type { SyncResult, Views } from '../backend.ts';
import type { NodeFacts } from '../policy.ts';
import { nodeAddressElement } from './elements.ts';
import {
  type Capacity,
  type ClusterIpMasquerade,
  capacityFor,
  layoutElements,
  proxyLayout,
} from './layout.ts';
import { FamilyPlan, planSize } from './plan.ts';

export interface FamilyOptions {
  /** Node ports are open on these. */
  readonly nodeAddresses: readonly Ip[];
  /** Where pods have their addresses; connections from anywhere else to a cluster IP are masqueraded. */
  readonly clusterCidrs: readonly Cidr[];
  /** Told when the kernel refused a change and the table is made anew. */
  readonly onRefused?: (error: Error) => void;
}

/** The table of one family: plan and kernel together. */
export class FamilyTable {
  readonly #family: Family;
  readonly #socket: NetlinkSocket;
  #nodePortIps: readonly Ip[];
  readonly #podNetworks: readonly NftElement[];
  readonly #masquerade: ClusterIpMasquerade;
  readonly #onRefused: (error: Error) => void;
  #plan: FamilyPlan;
  #capacity: Capacity;
  #isInPlace = false;
  #table: NftTable;

  constructor(family: Family, socket: NetlinkSocket, options: FamilyOptions) {
    this.#family = family;
    this.#socket = socket;
    this.#nodePortIps = options.nodeAddresses.filter((ip) => familyOf(ip) === family);
    this.#podNetworks = podNetworks(family, options);
    const hasPods = options.clusterCidrs.some((cidr) => familyOf(cidr) === family);
    this.#masquerade = hasPods ? 'outside pods' : 'nobody';
    this.#onRefused = options.onRefused ?? (() => {});
    this.#plan = new FamilyPlan(family, new Map());
    this.#capacity = capacityFor(this.#plan.size());
    this.#table = this.#newTable();
  }

  get problems(): ReadonlyMap<string, string> {
    return this.#plan.problems;
  }

  /** Takes over what is in the kernel and makes it what the views say. */
  async replace(views: Views): Promise<SyncResult> {
    this.#provide(planSize(views, this.#family));
    const actual = await this.#table.read();
    this.#plan = new FamilyPlan(this.#family, views, actual);
    this.#isInPlace = true;
    return await this.#write(this.#changesFrom(actual));
  }

  async update(changed: Views): Promise<SyncResult> {
    for (const [service, ports] of changed) this.#plan.put(service, ports);
    const changes = this.#plan.drain();
    return await this.#write(this.#provide(this.#plan.size()) ? this.#changesFrom(new Map()) : changes);
  }

  /** Node ports are open on these from now on; `all` is not done here yet. */
  async updateNode({ nodePortIps }: NodeFacts): Promise<SyncResult> {
    const [before, wanted] = [this.#nodePortIps, nodePortIps[this.#family]];
    if (wanted === 'all') return { writes: 0, failures: [] };
    this.#nodePortIps = wanted;
    if (!this.#isInPlace) return { writes: 0, failures: [] };
    const came = wanted.filter((ip) => !before.includes(ip)).map(nodeAddressElement);
    const gone = before.filter((ip) => !wanted.includes(ip)).map(nodeAddressElement);
    return await this.#write([
      ...came.map((each) => ({ kind: 'create', key: nftElementKey(each), wanted: each }) as const),
      ...gone.map((each) => ({ kind: 'delete', key: nftElementKey(each), actual: each }) as const),
    ]);
  }

  /** Sees to it that the layout has room; true when it is another one, whose table is empty. */
  #provide(size: Capacity): boolean {
    const wanted = capacityFor(size);
    const { frontends, endpoints, slots } = this.#capacity;
    if (wanted.frontends <= frontends && wanted.endpoints <= endpoints && wanted.slots <= slots) return false;
    this.#capacity = {
      frontends: Math.max(frontends, wanted.frontends),
      endpoints: Math.max(endpoints, wanted.endpoints),
      slots: Math.max(slots, wanted.slots),
    };
    this.#table = this.#newTable();
    return true;
  }

  #newTable(): NftTable {
    const layout = proxyLayout({
      family: this.#family,
      masquerade: this.#masquerade,
      capacity: this.#capacity,
    });
    return new NftTable({ socket: this.#socket, layout, onRefused: this.#onRefused });
  }

  /** As `diff` of all wanted rows, without holding them: they are many, and mostly as they should be. */
  #changesFrom(actual: ReadonlyMap<string, NftElement>): Change<string, NftElement>[] {
    const changes: Change<string, NftElement>[] = [];
    let found = 0;
    for (const wanted of this.#elements()) {
      const key = nftElementKey(wanted);
      const there = actual.get(key);
      if (there === undefined) changes.push({ kind: 'create', key, wanted });
      else {
        found += 1;
        if (!this.#table.same(wanted, there)) changes.push({ kind: 'update', key, wanted, actual: there });
      }
    }
    if (found === actual.size) return changes;
    const wanted =
      found === 0 ? new Set<string>() : new Set(Iterator.from(this.#elements()).map(nftElementKey));
    for (const [key, row] of actual) if (!wanted.has(key)) changes.push({ kind: 'delete', key, actual: row });
    return changes;
  }

  *#elements(): Generator<NftElement> {
    yield* layoutElements(this.#capacity);
    yield* this.#nodePortIps.map(nodeAddressElement);
    yield* this.#podNetworks;
    yield* this.#plan.elements();
  }

  async #write(changes: readonly Change<string, NftElement>[]): Promise<SyncResult> {
    return await applyChanges([{ layer: layer(this.#table, new Map()), changes }]);
  }
}

function podNetworks(family: Family, { clusterCidrs }: FamilyOptions): NftElement[] {
  return outermost(clusterCidrs.filter((cidr) => familyOf(cidr) === family)).map((cidr): NftElement => {
    return { set: 'pod-networks', ...nftRange(cidr) };
  });
}

/** Without networks that lie in others: ranges of one set must not overlap. */
function outermost(cidrs: readonly Cidr[]): Cidr[] {
  const unique = [...new Set(cidrs)];
  return unique.filter((cidr) => !unique.some((other) => other !== cidr && cidrContains(other, cidr)));
}
