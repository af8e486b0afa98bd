import type { Change } from '../../core/rows.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';

/**
 * What happened to the wanted elements since the last {@link Journal.drain}, several steps of one element in one.
 * Closed, it writes nothing down: while a plan is made from nothing, everything would be in it.
 */
export class Journal {
  isClosed = true;
  #touched = new Map<string, { before: NftElement | undefined; after: NftElement | undefined }>();

  /** `before` is no longer wanted, `after` is: the same element with other data, or different elements, or one of both. */
  replace(before: NftElement | undefined, after: NftElement | undefined): void {
    if (this.isClosed) return;
    const [keyBefore, keyAfter] = [before && nftElementKey(before), after && nftElementKey(after)];
    if (keyBefore !== undefined && keyBefore !== keyAfter) this.#note(keyBefore, before, undefined);
    if (keyAfter !== undefined) this.#note(keyAfter, keyBefore === keyAfter ? before : undefined, after);
  }

  /** The same for several that belong together. */
  exchange(before: Iterable<NftElement>, after: Iterable<NftElement>): void {
    if (this.isClosed) return;
    const wanted = new Map(Iterator.from(after).map((element) => [nftElementKey(element), element]));
    for (const element of before) {
      const key = nftElementKey(element);
      this.#note(key, element, wanted.get(key));
      wanted.delete(key);
    }
    for (const [key, element] of wanted) this.#note(key, undefined, element);
  }

  #note(key: string, before: NftElement | undefined, after: NftElement | undefined): void {
    const touched = this.#touched.get(key);
    if (touched === undefined) this.#touched.set(key, { before, after });
    else touched.after = after;
  }

  /** The sum as changes to rows; what came back to where it was is none. */
  drain(): Change<string, NftElement>[] {
    const touched = this.#touched;
    this.#touched = new Map();
    return Array.from(touched, ([key, { before, after }]) => changeOf(key, before, after)).filter(
      (change) => change !== undefined,
    );
  }
}

function changeOf(
  key: string,
  before: NftElement | undefined,
  after: NftElement | undefined,
): Change<string, NftElement> | undefined {
  if (before === undefined) return after && { kind: 'create', key, wanted: after };
  if (after === undefined) return { kind: 'delete', key, actual: before };
  return before.data === after.data ? undefined : { kind: 'update', key, wanted: after, actual: before };
}
