import { type Family, ipFromBytes } from '../../core/address.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { decodeSlot, decodeValue } from '../../proxy/nftables/elements.ts';

/** What a connection to each frontend meets: the endpoints, one for each number that may be drawn, or a refusal. */
export type Reachability = ReadonlyMap<string, readonly string[] | 'refused'>;

/** Does what the kernel does with these elements. Throws where a packet would find no way. */
export function reachability(elements: ReadonlyMap<string, NftElement>, family: Family): Reachability {
  const slots = new Map<string, string>();
  for (const { set, key, data } of elements.values()) {
    if (set !== 'endpoints') continue;
    const { id, slot } = decodeSlot(key);
    const bytes = Buffer.from(data as string, 'hex');
    const ipBytes = family === 4 ? 4 : 16;
    slots.set(`${id} ${slot}`, `${ipFromBytes(bytes.subarray(0, ipBytes))} ${bytes.readUInt16BE(ipBytes)}`);
  }
  const reached = new Map<string, readonly string[] | 'refused'>();
  const put = (frontend: string, way: readonly string[] | 'refused') => {
    if (reached.has(frontend)) throw new Error(`${frontend} is served and refused`);
    reached.set(frontend, way);
  };
  for (const { set, key, data } of elements.values()) {
    if (set === 'services' || set === 'nodeports') {
      const { id, slots: count } = decodeValue(data as string);
      const drawn = Array.from({ length: count }, (_, slot) => slots.get(`${id} ${slot}`));
      if (count === 0 || drawn.includes(undefined)) throw new Error(`list ${id} has an empty slot`);
      put(`${set} ${key}`, (drawn as string[]).sort());
    } else if (set === 'no-endpoints') put(`services ${key}`, 'refused');
    else if (set === 'no-endpoint-nodeports') put(`nodeports ${key}`, 'refused');
  }
  return reached;
}
