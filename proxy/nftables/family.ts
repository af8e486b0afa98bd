import type { Cidr, Family, Ip } from '../../core/address.ts';
import { cidrContains, familyOf } from '../../core/address.ts';
import { diff } from '../../core/diff.ts';
import { applyChanges } from '../../core/reconcile.ts';
import type { Change } from '../../core/rows.ts';
import { nftRange } from '../../kernel/netlink/nftables/keys.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { NftTable } from '../../kernel/nftables.ts';
import type { SyncResult, Views } from '../backend.ts';
import { nodeAddressElement } from './elements.ts';
import { type Capacity, capacityFor, layoutElements, proxyLayout } from './layout.ts';
import { FamilyPlan, planSize } from './plan.ts';

export interface NodeFacts {
  /** Node ports are open on these. */
  readonly nodeAddresses: readonly Ip[];
  /** Where pods have their addresses; connections from anywhere else to a cluster IP are masqueraded. */
  readonly clusterCidrs: readonly Cidr[];
}

/** The table of one family: plan and kernel together. */
export class FamilyTable {
  readonly #family: Family;
  readonly #socket: NetlinkSocket;
  readonly #constant: readonly NftElement[];
  readonly #masquerade: 'outside pods' | 'nobody';
  #plan: FamilyPlan;
  #capacity: Capacity;
  #table: NftTable;

  constructor(family: Family, socket: NetlinkSocket, facts: NodeFacts) {
    this.#family = family;
    this.#socket = socket;
    this.#constant = nodeElements(family, facts);
    this.#masquerade = facts.clusterCidrs.some((cidr) => familyOf(cidr) === family)
      ? 'outside pods'
      : 'nobody';
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

    return await this.#write(diff(this.#elements(), actual, (a, b) => this.#table.same(a, b)));
  }

  async update(changed: Views): Promise<SyncResult> {
    for (const [service, ports] of changed) this.#plan.put(service, ports);
    const changes = this.#plan.drain();
    if (!this.#provide(this.#plan.size())) return await this.#write(changes);
    return await this.#write(diff(this.#elements(), new Map(), () => false));
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
    return new NftTable({ socket: this.#socket, layout });
  }

  #elements(): Map<string, NftElement> {
    const elements = this.#plan.elements();
    for (const element of [...layoutElements(this.#capacity), ...this.#constant]) {
      elements.set(nftElementKey(element), element);
    }
    return elements;
  }

  async #write(changes: readonly Change<string, NftElement>[]): Promise<SyncResult> {
    const layer = { table: this.#table };
    return await applyChanges([{ layer, changes }] as unknown as Parameters<typeof applyChanges>[0]);
  }
}

function nodeElements(family: Family, { nodeAddresses, clusterCidrs }: NodeFacts): NftElement[] {
  return [
    ...nodeAddresses.filter((ip) => familyOf(ip) === family).map(nodeAddressElement),
    ...outermost(clusterCidrs.filter((cidr) => familyOf(cidr) === family)).map((cidr): NftElement => {
      return { set: 'pod-networks', ...nftRange(cidr) };
    }),
  ];
}

/** Without networks that lie in others: ranges of one set must not overlap. */
function outermost(cidrs: readonly Cidr[]): Cidr[] {
  const unique = [...new Set(cidrs)];
  return unique.filter((cidr) => !unique.some((other) => other !== cidr && cidrContains(other, cidr)));
}
