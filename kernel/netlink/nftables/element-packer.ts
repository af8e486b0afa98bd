import type { NetlinkMessage } from '../message.ts';
import { NLA_F_NESTED } from '../wire.ts';
import { elementList } from './constants.ts';

/** A list of elements must stay below 64 KiB: nla_len is 16 bit, and the kernel would silently lose the rest. */
export const ELEMENTS_PER_MESSAGE = 1200;
export const LIST_BYTES_MAX = 60_000;
const NLA_HEADER_BYTES = 4;

/** What messages about elements of one set have in common. */
export interface ElementMessages extends Omit<NetlinkMessage, 'payload'> {
  /** The payload up to the list of elements. */
  readonly prefix: Uint8Array;
}

/** The same, of a set whose elements differ in the bytes of key and data only. */
export interface PlainMessages extends ElementMessages {
  /** One element, with zeros for its key and its data. */
  readonly blank: Uint8Array;
  /** Where these are in it; without data undefined. */
  readonly keyAt: number;
  readonly dataAt: number | undefined;
}

/** Many elements as one message. */
export interface PackedElements {
  readonly count: number;
  readonly message: NetlinkMessage;
}

/**
 * Puts elements straight into the bytes of messages, for those who have too many to make an object of each: `add` says
 * where the bytes of a key are to go in `bytes`, and those of its data `keyToData` behind them.
 */
export class ElementPacker {
  bytes = new Uint8Array();
  readonly keyToData: number;
  readonly #messages: PlainMessages;
  readonly #elementBytes: number;
  /** Elements that are still to come, as far as one knows. */
  #expected: number;
  #full: PackedElements[] = [];
  #room = 0;
  #count = 0;
  #at = 0;

  constructor(messages: PlainMessages, expected = Number.POSITIVE_INFINITY) {
    this.#messages = messages;
    this.#elementBytes = messages.blank.length;
    this.#expected = expected;
    this.keyToData = (messages.dataAt ?? messages.keyAt) - messages.keyAt;
  }

  /** One more element, with zeros for its key and its data. */
  add(): number {
    if (this.#count === this.#room) this.#begin();
    const at = this.#at;
    this.#at = at + this.#elementBytes;
    this.#count += 1;
    return at;
  }

  #begin(): void {
    this.#end();
    const { prefix, blank, keyAt } = this.#messages;
    const most = Math.min(ELEMENTS_PER_MESSAGE, Math.floor(LIST_BYTES_MAX / blank.length));
    this.#room = Math.min(most, Math.max(1, this.#expected));
    this.#expected -= this.#room;
    this.bytes = blankPayload(prefix, blank, this.#room);
    this.#at = prefix.length + NLA_HEADER_BYTES + keyAt;
  }

  #end(): void {
    if (this.#count === 0) return;
    const { type, flags, operation, prefix } = this.#messages;
    const listBytes = NLA_HEADER_BYTES + this.#count * this.#elementBytes;
    new DataView(this.bytes.buffer).setUint16(prefix.length, listBytes, true);
    const payload = this.bytes.subarray(0, prefix.length + listBytes);
    this.#full.push({ count: this.#count, message: { type, flags, payload, operation } });
    this.#room = 0;
    this.#count = 0;
  }

  /** The messages that are full. */
  takeFull(): readonly PackedElements[] {
    if (this.#full.length === 0) return this.#full;
    const taken = this.#full;
    this.#full = [];
    return taken;
  }

  /** All messages: the last one is as full as it is. */
  takeAll(): readonly PackedElements[] {
    this.#end();
    return this.takeFull();
  }
}

/** A payload with so many blank elements; the length of their list is left open. */
function blankPayload(prefix: Uint8Array, blank: Uint8Array, count: number): Uint8Array<ArrayBuffer> {
  const from = prefix.length + NLA_HEADER_BYTES;
  const payload = new Uint8Array(from + count * blank.length);
  payload.set(prefix);
  new DataView(payload.buffer).setUint16(prefix.length + 2, elementList.ELEMENTS | NLA_F_NESTED, true);
  payload.set(blank, from);
  // What is there already, once more, as often as it takes.
  for (let done = blank.length; from + done < payload.length; done *= 2) {
    payload.copyWithin(from + done, from, from + done);
  }
  return payload;
}
