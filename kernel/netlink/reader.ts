import { align4, NLA_HEADER_BYTES, NLA_TYPE_MASK } from './writer.ts';

/** Bytes from the kernel, or from a fixture, that are not what their type promises. */
export class MalformedMessageError extends Error {
  override readonly name = 'MalformedMessageError';
}

const decoder = new TextDecoder();

/** Reads the fixed header in front of the attributes, field by field. `what` names the message in errors. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  #at = 0;

  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#what = what;
  }

  #take(count: number): number {
    const at = this.#at;
    if (at + count > this.#bytes.length) {
      throw new MalformedMessageError(
        `${this.#what}: ${this.#bytes.length} bytes, at least ${at + count} expected`,
      );
    }
    this.#at = at + count;
    return at;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u16be(): number {
    return this.#view.getUint16(this.#take(2), false);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u32be(): number {
    return this.#view.getUint32(this.#take(4), false);
  }

  i32(): number {
    return this.#view.getInt32(this.#take(4), true);
  }

  skip(count: number): this {
    this.#take(count);
    return this;
  }

  take(count: number): Uint8Array {
    const at = this.#take(count);
    return this.#bytes.subarray(at, at + count);
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  rest(): Uint8Array {
    return this.#bytes.subarray(this.#at);
  }

  /** All that follows, as attributes. */
  attributes(): Attributes {
    return Attributes.parse(this.rest(), this.#what);
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** One attribute of a list: type without its flag bits, and payload. */
export interface Attribute {
  readonly type: number;
  readonly value: Uint8Array;
}

/**
 * A list of attributes. The getters answer undefined for what is absent and throw
 * {@link MalformedMessageError} for what is too short; of repeated types they see the last.
 *
 * Only places are kept: a link has fifty attributes, of which a reader wants a few.
 */
export class Attributes implements Iterable<Attribute> {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  readonly #types: readonly number[];
  /** Of the payload of each attribute. */
  readonly #starts: readonly number[];
  readonly #ends: readonly number[];

  private constructor(bytes: Uint8Array, what: string, types: number[], starts: number[], ends: number[]) {
    this.#bytes = bytes;
    this.#what = what;
    this.#types = types;
    this.#starts = starts;
    this.#ends = ends;
  }

  /** `what` names the place in errors. Trailing bytes too few for a header are padding, as for the kernel. */
  static parse(bytes: Uint8Array, what = 'attributes'): Attributes {
    const types: number[] = [];
    const starts: number[] = [];
    const ends: number[] = [];
    for (let at = 0; at + NLA_HEADER_BYTES <= bytes.length; ) {
      const length = u16At(bytes, at);
      const type = u16At(bytes, at + 2) & NLA_TYPE_MASK;
      if (length < NLA_HEADER_BYTES || at + length > bytes.length) {
        throw new MalformedMessageError(
          `${what}: attribute ${type} at byte ${at} says ${length} bytes, ${bytes.length - at} are left`,
        );
      }
      types.push(type);
      starts.push(at + NLA_HEADER_BYTES);
      ends.push(at + length);
      at += align4(length);
    }
    return new Attributes(bytes, what, types, starts, ends);
  }

  *[Symbol.iterator](): Generator<Attribute> {
    for (const [index, type] of this.#types.entries()) yield { type, value: this.#valueAt(index) };
  }

  #valueAt(index: number): Uint8Array {
    return this.#bytes.subarray(this.#starts[index], this.#ends[index]);
  }

  has(type: number): boolean {
    return this.#types.includes(type);
  }

  get(type: number): Uint8Array | undefined {
    const index = this.#types.lastIndexOf(type);
    return index < 0 ? undefined : this.#valueAt(index);
  }

  /** Where the value of a type begins; undefined when absent. */
  #startOf(type: number, count: number): number | undefined {
    const index = this.#types.lastIndexOf(type);
    const start = this.#starts[index];
    const end = this.#ends[index];
    if (start === undefined || end === undefined) return undefined;
    if (end - start >= count) return start;
    throw new MalformedMessageError(
      `${this.#what}: attribute ${type} has ${end - start} bytes, ${count} expected`,
    );
  }

  u8(type: number): number | undefined {
    const at = this.#startOf(type, 1);
    return at === undefined ? undefined : this.#bytes[at];
  }

  u16(type: number): number | undefined {
    const at = this.#startOf(type, 2);
    return at === undefined ? undefined : u16At(this.#bytes, at);
  }

  u16be(type: number): number | undefined {
    const at = this.#startOf(type, 2);
    return at === undefined ? undefined : swap16(u16At(this.#bytes, at));
  }

  u32(type: number): number | undefined {
    const value = this.i32(type);
    return value === undefined ? undefined : value >>> 0;
  }

  u32be(type: number): number | undefined {
    const at = this.#startOf(type, 4);
    return at === undefined ? undefined : viewOf(this.#bytes).getUint32(at, false);
  }

  i32(type: number): number | undefined {
    const at = this.#startOf(type, 4);
    return at === undefined ? undefined : u16At(this.#bytes, at) | (u16At(this.#bytes, at + 2) << 16);
  }

  u64(type: number): bigint | undefined {
    const at = this.#startOf(type, 8);
    return at === undefined ? undefined : viewOf(this.#bytes).getBigUint64(at, true);
  }

  u64be(type: number): bigint | undefined {
    const at = this.#startOf(type, 8);
    return at === undefined ? undefined : viewOf(this.#bytes).getBigUint64(at, false);
  }

  /** Text up to the first NUL. */
  text(type: number): string | undefined {
    const value = this.get(type);
    return value === undefined ? undefined : textOf(value);
  }

  nested(type: number): Attributes | undefined {
    const value = this.get(type);
    return value === undefined ? undefined : Attributes.parse(value, `${this.#what}.${type}`);
  }
}

function u16At(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >>> 8);
}

/** Bytes as text, up to the first NUL. */
export function textOf(bytes: Uint8Array): string {
  let ascii = '';
  for (const byte of bytes) {
    if (byte === 0) return ascii;
    if (byte > 0x7f) return decodeText(bytes);
    ascii += String.fromCharCode(byte);
  }
  return ascii;
}

function decodeText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return decoder.decode(end < 0 ? bytes : bytes.subarray(0, end));
}
