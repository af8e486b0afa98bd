import type { Family } from '../../core/address.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { ServicePortView } from '../view.ts';
import { decodeSlot, decodeValue, type FrontendValue, frontendElement } from './elements.ts';
import { type KnownLists, listName } from './lists.ts';
import type { Place } from './slots.ts';

/**
 * Finds the lists of these service ports in what the kernel holds: a list is known by the id under any of its
 * frontends (of two services at one frontend by the first, whose frontend it is). So a restarted proxy goes on with the ids and slots of the one before it, which it never met.
 */
export function knownLists(
  ports: Iterable<ServicePortView>,
  actual: ReadonlyMap<string, NftElement>,
  family: Family,
): KnownLists {
  const slots = slotsById(actual.values(), family);
  const taken = new Set<number>();
  const known = new Map<string, { id: number; slots: readonly Place[] }>();
  for (const port of ports) {
    const value = valuesOf(port, actual).find(({ id }) => id !== 0 && !taken.has(id));
    if (value === undefined || port.endpoints.length === 0) continue;
    taken.add(value.id);
    known.set(listName(port), { id: value.id, slots: slots.get(value.id)?.slice(0, value.slots) ?? [] });
  }
  return known;
}

function valuesOf(port: ServicePortView, actual: ReadonlyMap<string, NftElement>): FrontendValue[] {
  const anywhere: FrontendValue = { id: 0, kind: 0, slots: 0 };
  return port.frontends.flatMap((frontend) => {
    const row = actual.get(nftElementKey(frontendElement(frontend, port.protocol, anywhere)));
    return typeof row?.data === 'string' ? decodeValue(row.data) : [];
  });
}

function slotsById(rows: Iterable<NftElement>, family: Family): Map<number, Place[]> {
  const lists = new Map<number, Place[]>();
  for (const { set, key, data } of rows) {
    if (set !== 'endpoints' || typeof data !== 'string') continue;
    const { id, slot, ip, port } = decodeSlot(key, data, family);
    let list = lists.get(id);
    if (list === undefined) {
      list = [];
      lists.set(id, list);
    }
    list[slot] = { ip, port };
  }
  return lists;
}
