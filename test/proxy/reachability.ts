import { type Family, ipFromBytes } from '../../core/address.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import {
  AFFINITY_KIND,
  decodeSlot,
  decodeToken,
  decodeValue,
  type FrontendValue,
  kinds,
  LOCAL_KIND,
  maglevCodes,
} from '../../proxy/nftables/elements.ts';

/** The endpoints that a connection may reach, as often as it draws them. */
export type Way = readonly string[] | 'refused' | 'dropped';

/** What connections to one frontend meet. */
export interface Reach {
  readonly fromOutside: Way;
  /** Pods and the node itself. */
  readonly fromInside: Way;
  /** The chain that decides about masquerading. */
  readonly kind?: string;
  /** Who may connect at all, as first and last addresses in hex. */
  readonly ranges?: readonly string[];
  /** The chain that says how long clients keep their endpoint. */
  readonly keep?: string;
}

/** By frontend: `IP-PROTO-PORT` or `PROTO-PORT` in hex. */
export type Reachability = ReadonlyMap<string, Reach>;

/** Does what the rules do with these elements. Throws where a packet would find no way. */
export function reachability(elements: ReadonlyMap<string, NftElement>, family: Family): Reachability {
  const kernel = new KernelMaps(elements, family);
  const reached = new Map<string, Reach>();
  for (const [services, inside, refused] of [
    ['services', 'services-inside', 'no-endpoints'],
    ['nodeports', 'nodeports-inside', 'no-endpoint-nodeports'],
  ] as const) {
    for (const key of new Set([...kernel.keys(services), ...kernel.keys(refused)])) {
      reached.set(key, kernel.reach(key, services, inside, refused));
    }
  }
  return reached;
}

class KernelMaps {
  readonly #sets = new Map<string, Map<string, NftElement>>();
  readonly #family: Family;

  constructor(elements: ReadonlyMap<string, NftElement>, family: Family) {
    this.#family = family;
    for (const element of elements.values()) {
      const set = this.#sets.get(element.set) ?? new Map<string, NftElement>();
      this.#sets.set(element.set, set.set(element.key, element));
    }
  }

  keys(set: string): Iterable<string> {
    return this.#sets.get(set)?.keys() ?? [];
  }

  #data(set: string, key: string): string | undefined {
    const data = this.#sets.get(set)?.get(key)?.data;
    return typeof data === 'object' ? JSON.stringify(data) : data;
  }

  #value(set: string, key: string): FrontendValue | undefined {
    const data = this.#data(set, key);
    return data === undefined ? undefined : decodeValue(data);
  }

  reach(key: string, services: string, inside: string, refused: string): Reach {
    const isRefused = this.#sets.get(refused)?.has(key) === true;
    const first = this.#value(services, key);
    const nobody: Reach = { fromOutside: 'refused', fromInside: 'refused' };
    if (first === undefined) return nobody;
    if ((first.kind & 3) !== kinds.guarded) {
      if (isRefused) throw new Error(`${key} is served and refused`);
      return this.#served(key, first, inside);
    }
    if (first.id === 0) return { fromOutside: 'dropped', fromInside: 'dropped' };
    const ranges = this.#ranges(first.id);
    const value = this.#value('guarded-services', key);
    if ((value === undefined) !== isRefused) throw new Error(`${key} is guarded and has no value`);
    return { ...(value === undefined ? nobody : this.#served(key, value, inside)), ranges };
  }

  #served(key: string, value: FrontendValue, inside: string): Reach {
    const kind = Object.entries(kinds).find(([, number]) => number === (value.kind & 3))?.[0] ?? '';
    if (value.id === 0) return { fromOutside: 'dropped', fromInside: 'dropped' };
    const fromOutside = this.#list(value);
    const keep = value.kind & AFFINITY_KIND ? { keep: this.#keep(value.id) } : {};
    if (kind !== 'external-local') return { fromOutside, fromInside: fromOutside, kind, ...keep };
    const other = this.#value(inside, key);
    const fromInside = other === undefined ? 'dropped' : this.#list(other);
    const kept = other !== undefined && other.kind & AFFINITY_KIND ? { keep: this.#keep(other.id) } : keep;
    return { fromOutside, fromInside, kind, ...kept };
  }

  #keep(id: number): string {
    return this.#data('timeouts', this.#idKey(id)) ?? fail(`port ${id} has no timeout`);
  }

  #idKey(id: number): string {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE((id << 16) >>> 0);
    return bytes.toString('hex');
  }

  #ranges(group: number): string[] {
    const prefix = this.#idKey(group);
    const all = [...(this.#sets.get('source-ranges')?.values() ?? [])];
    return all
      .filter(({ key }) => key.startsWith(prefix))
      .map(({ key, keyEnd }) => `${key.slice(8)}-${keyEnd?.slice(8)}`)
      .sort();
  }

  #list({ id, kind, slots: code }: FrontendValue): Way {
    if (code === 0) return 'dropped';
    const local = (kind & LOCAL_KIND) !== 0;
    const sticky = (kind & AFFINITY_KIND) !== 0;
    const size = Object.entries(maglevCodes).find(([, each]) => each === code)?.[0];
    const count = size === undefined ? code : Number(size);
    const slots = this.#slots(sticky ? 'tokens' : 'endpoints', id, local);
    if (sticky && this.#data(local ? 'lists-local' : 'lists', this.#idKey(id)) === undefined)
      throw new Error(`clients of port ${id} cannot get another endpoint`);
    return Array.from({ length: count }, (_, slot) => {
      const data = slots.get(slot) ?? fail(`port ${id} has an empty slot`);
      return this.#endpoint(sticky ? this.#sticky(data, local) : data);
    }).sort();
  }

  #slots(set: string, id: number, local: boolean): Map<number, string> {
    const slots = new Map<number, string>();
    for (const [key, { data }] of this.#sets.get(set) ?? []) {
      const at = decodeSlot(key);
      if (at.id === id && at.local === local && typeof data === 'string') slots.set(at.slot, data);
    }
    return slots;
  }

  #sticky(token: string, local: boolean): string {
    for (const [key, { data }] of this.#sets.get(local ? 'sticky-local' : 'sticky') ?? []) {
      if (key.startsWith(token) && typeof data === 'string') return data;
    }
    return fail(`token ${JSON.stringify(decodeToken(token))} has no endpoint`);
  }

  #endpoint(data: string): string {
    const bytes = Buffer.from(data, 'hex');
    const ipBytes = this.#family === 4 ? 4 : 16;
    return `${ipFromBytes(bytes.subarray(0, ipBytes))} ${bytes.readUInt16BE(ipBytes)}`;
  }
}

function fail(text: string): never {
  throw new Error(text);
}
