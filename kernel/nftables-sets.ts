import { type ElementEncoder, elementEncoder } from './netlink/nftables/encode-elements.ts';
import { setDataBytes, setKeyBytes } from './netlink/nftables/messages.ts';
import type { NftElement, NftLayout, NftSet } from './netlink/nftables/spec.ts';

/** What is worked out once for each set. */
export interface OpenSet {
  readonly spec: NftSet;
  readonly encoder: ElementEncoder;
  readonly keyDigits: number;
  readonly dataDigits: number;
}

export function openSet(layout: NftLayout, spec: NftSet): OpenSet {
  const encoder = elementEncoder(layout, spec);
  return { spec, encoder, keyDigits: 2 * setKeyBytes(spec), dataDigits: 2 * setDataBytes(spec) };
}

/** Why the row cannot be an element of its set; undefined: it can. */
export function misfit(
  sets: ReadonlyMap<string, OpenSet>,
  layout: NftLayout,
  { set: name, key, keyEnd, data }: NftElement,
): string | undefined {
  const set = sets.get(name);
  if (set === undefined) return `there is no set "${name}"`;
  const { spec, keyDigits, dataDigits } = set;
  if (spec.dynamic) return `the elements of "${name}" are made by packets`;
  if (key.length !== keyDigits) return `a key of ${keyDigits} hex digits is expected`;
  if (spec.interval && keyEnd?.length !== keyDigits) return `a keyEnd of ${keyDigits} hex digits is expected`;
  if (!spec.interval && keyEnd !== undefined) return 'it cannot be a range';
  if (spec.data === 'verdict') return misfitVerdict(layout, data);
  if (spec.data === undefined) return data === undefined ? undefined : 'the set is no map';
  const fits = typeof data === 'string' && data.length === dataDigits;
  return fits ? undefined : `data of ${dataDigits} hex digits is expected`;
}

function misfitVerdict(layout: NftLayout, data: NftElement['data']): string | undefined {
  if (typeof data !== 'object') return 'a verdict is expected';
  if (!('chain' in data) || layout.chains.some(({ name }) => name === data.chain)) return undefined;
  return `there is no chain "${data.chain}"`;
}
