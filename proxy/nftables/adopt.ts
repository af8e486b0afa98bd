import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { ServicePortView } from '../view.ts';
import { decodeSlot, decodeValue, type FrontendValue, frontendElement } from './elements.ts';
import { type KnownList, listName } from './lists.ts';

/**
 * Finds the lists of these service ports in what the kernel holds: a list is known by the id under any of its
 * frontends (of two services at one frontend by the first, whose frontend it is). So a restarted proxy goes on with
 * the ids and slots of the one before it, which it never met.
 */
export function knownLists(
  ports: readonly ServicePortView[],
  actual: ReadonlyMap<string, NftElement>,
): Map<string, KnownList> {
  const known = new Map<string, KnownList>();
  if (actual.size === 0) return known;
  const slots = slotsById(actual.values());
  const taken = new Set<number>();
  for (const port of ports) {
    if (port.clusterEndpoints.length === 0) continue;
    const value = valuesOf(port, actual).find(({ id }) => id !== 0 && !taken.has(id));
    if (value === undefined) continue;
    taken.add(value.id);
    const places = Array.from(slots.get(value.id)?.slice(0, value.slots) ?? []);
    known.set(listName(port), { id: value.id, slots: places });
  }
  return known;
}

const nowhere: FrontendValue = { id: 0, kind: 0, slots: 0 };

function valuesOf(port: ServicePortView, actual: ReadonlyMap<string, NftElement>): FrontendValue[] {
  return port.frontends.flatMap((frontend) => {
    const row = actual.get(nftElementKey(frontendElement(frontend, port.protocol, nowhere)));
    return typeof row?.data === 'string' ? decodeValue(row.data) : [];
  });
}

function slotsById(rows: Iterable<NftElement>): Map<number, (string | undefined)[]> {
  const lists = new Map<number, (string | undefined)[]>();
  for (const { set, key, data } of rows) {
    if (set !== 'endpoints' || typeof data !== 'string') continue;
    const { id, slot } = decodeSlot(key);
    let list = lists.get(id);
    if (list === undefined) {
      list = [];
      lists.set(id, list);
    }
    list[slot] = data;
  }
  return lists;
}
