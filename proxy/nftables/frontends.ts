import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { Protocol } from '../protocol.ts';
import type { Frontend, ServicePortView } from '../view.ts';
import {
  AFFINITY_KIND,
  dropped,
  type FrontendValue,
  frontendElement,
  kinds,
  LOCAL_KIND,
} from './elements.ts';
import type { Journal } from './journal.ts';
import type { PortLists } from './lists.ts';

/** One service's claim to a frontend. */
export interface Claim {
  /** `namespace/name` of the service. */
  readonly owner: string;
  /** {@link frontendId} */
  readonly id: string;
  /** What it takes to have it. */
  readonly elements: readonly NftElement[];
}

/** The identity of a frontend, whoever claims it. */
export function frontendId(frontend: Frontend, protocol: Protocol): string {
  const ip = frontend.kind === 'nodePort' ? '' : frontend.ip;
  return `${ip} ${protocol} ${frontend.port}`;
}

/**
 * The elements of one frontend of a port. `lists` are undefined without endpoints; `group` is the number of the
 * source ranges that may connect to it.
 */
export function frontendElements(
  port: ServicePortView,
  frontend: Frontend,
  lists: PortLists | undefined,
  group?: number,
): NftElement[] {
  const element = (set: Parameters<typeof frontendElement>[0], value?: FrontendValue) =>
    frontendElement(set, frontend, port.protocol, value);
  const isRefused = lists === undefined && !isDropped(port);
  const value = isRefused ? undefined : frontendValue(port, frontend, lists);
  const guard =
    group === undefined ? undefined : element('all', { id: group, kind: kinds.guarded, slots: 0 });
  const own =
    value === undefined ? element('refused') : element(guard === undefined ? 'all' : 'guarded', value);
  const elements = guard === undefined ? [own] : isRefused ? [own, guard] : [guard, own];
  if (isInsideToo(port, frontend) && lists !== undefined && lists.cluster.slots.length > 0)
    elements.push(element('inside', listValue(lists, false, kinds.external)));
  return elements;
}

/** Somebody is there, but nobody for any policy. (Endpoints and no list: none was left, and clients hear of it.) */
function isDropped({ hasAnyEndpoints, clusterEndpoints, localEndpoints }: ServicePortView): boolean {
  return hasAnyEndpoints && clusterEndpoints.length === 0 && localEndpoints.length === 0;
}

/** Pods and the node itself get other endpoints than the outside. */
function isInsideToo({ externalPolicy }: ServicePortView, { kind }: Frontend): boolean {
  return kind !== 'clusterIP' && externalPolicy === 'Local';
}

function frontendValue(
  port: ServicePortView,
  frontend: Frontend,
  lists: PortLists | undefined,
): FrontendValue {
  if (lists === undefined) return dropped;
  const isClusterIp = frontend.kind === 'clusterIP';
  const local = (isClusterIp ? port.internalPolicy : port.externalPolicy) === 'Local';
  if (isClusterIp) return listValue(lists, local, kinds['cluster-ip']);
  // From outside nobody may be there for whom is somebody inside.
  return listValue(lists, local, local ? kinds['external-local'] : kinds.external);
}

/** A list without slots is one whose connections are dropped, when its kind has been looked at. */
function listValue(lists: PortLists, local: boolean, kind: number): FrontendValue {
  const { slots, code } = local ? lists.local : lists.cluster;
  const affinity = lists.affinitySeconds === undefined || slots.length === 0 ? 0 : AFFINITY_KIND;
  return { id: lists.id, kind: kind + affinity + (local ? LOCAL_KIND : 0), slots: code };
}

/**
 * The frontends of one family. Two services may claim the same one for a moment, when an address is given to the next
 * service: the one whose name sorts first has it, the other one gets it afterwards.
 */
export class Frontends {
  /** Who has each frontend. */
  readonly #claims = new Map<string, Claim>();
  /** All who claim it, sorted, of frontends that several claim. */
  readonly #contested = new Map<string, readonly Claim[]>();
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  /** Replaces what `owner` claims of this frontend. */
  claim(claim: Claim): void {
    const before = this.#claims.get(claim.id);
    if (before === undefined || (before.owner === claim.owner && !this.#contested.has(claim.id))) {
      this.#claims.set(claim.id, claim);
      if (!this.#journal.isClosed) this.#journal.exchange(before?.elements ?? [], claim.elements);
    } else {
      const all = [...this.#others(claim), claim].sort((a, b) => (a.owner < b.owner ? -1 : 1));
      this.#replace(claim.id, all);
    }
  }

  release(claim: Claim): void {
    this.#replace(claim.id, this.#others(claim));
  }

  /** What others claim of the frontend. */
  #others({ id, owner }: Claim): readonly Claim[] {
    const holder = this.#claims.get(id);
    const all = this.#contested.get(id) ?? (holder === undefined ? [] : [holder]);
    return all.filter((claim) => claim.owner !== owner);
  }

  #replace(id: string, claims: readonly Claim[]): void {
    const before = this.#claims.get(id);
    const [after] = claims;
    if (after === undefined) this.#claims.delete(id);
    else this.#claims.set(id, after);
    if (claims.length > 1) this.#contested.set(id, claims);
    else this.#contested.delete(id);
    if (before !== after) this.#journal.exchange(before?.elements ?? [], after?.elements ?? []);
  }

  *elements(): Generator<NftElement> {
    for (const { elements } of this.#claims.values()) yield* elements;
  }

  get size(): number {
    return this.#claims.size;
  }
}
