/**
 * Bytes and attributes (struct nlattr) of netlink messages. Host order is little-endian on every machine that
 * Fairlead runs on (x86-64, arm64); fields in network order have names ending in `be`.
 */

/** Bytes from the kernel, or from a fixture, that are not what their type promises. */
export class MalformedMessageError extends Error {
  override readonly name = 'MalformedMessageError';
}

/** The top two bits of nla_type: nested, and network byte order. */
export const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;
const NLA_HEADER_BYTES = 4;
/** nla_len is 16 bit. The kernel would take a longer list as a shorter one, silently. */
const NLA_LENGTH_MAX = 0xffff;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function align4(length: number): number {
  return (length + 3) & ~3;
}

/** A growing buffer. Values are appended; attributes are padded to 4 bytes. */
export class Writer {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(capacityBytes = 256) {
    this.#bytes = new Uint8Array(capacityBytes);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get length(): number {
    return this.#length;
  }

  #reserve(count: number): number {
    const at = this.#length;
    const end = at + count;
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(end, this.#bytes.length * 2));
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    this.#length = end;
    return at;
  }

  u8(value: number): this {
    const at = this.#reserve(1);
    this.#view.setUint8(at, value);
    return this;
  }

  u16(value: number): this {
    const at = this.#reserve(2);
    this.#view.setUint16(at, value, true);
    return this;
  }

  u32(value: number): this {
    const at = this.#reserve(4);
    this.#view.setUint32(at, value, true);
    return this;
  }

  i32(value: number): this {
    return this.u32(value >>> 0);
  }

  u64(value: bigint): this {
    const at = this.#reserve(8);
    this.#view.setBigUint64(at, value, true);
    return this;
  }

  u16be(value: number): this {
    const at = this.#reserve(2);
    this.#view.setUint16(at, value, false);
    return this;
  }

  u32be(value: number): this {
    const at = this.#reserve(4);
    this.#view.setUint32(at, value, false);
    return this;
  }

  u64be(value: bigint): this {
    const at = this.#reserve(8);
    this.#view.setBigUint64(at, value, false);
    return this;
  }

  bytes(value: Uint8Array): this {
    const at = this.#reserve(value.length);
    this.#bytes.set(value, at);
    return this;
  }

  zeros(count: number): this {
    this.#reserve(count);
    return this;
  }

  /** Zeros up to the next multiple of four. */
  pad(): this {
    return this.zeros(align4(this.#length) - this.#length);
  }

  /** Overwrites a value written before, such as a length. */
  setU32(at: number, value: number): this {
    this.#view.setUint32(at, value, true);
    return this;
  }

  setU16(at: number, value: number): this {
    this.#view.setUint16(at, value, true);
    return this;
  }

  #header(type: number, payloadBytes: number): this {
    const length = NLA_HEADER_BYTES + payloadBytes;
    if (length > NLA_LENGTH_MAX) throw tooLong(type, length);
    return this.u16(length).u16(type);
  }

  attr(type: number, value: Uint8Array): this {
    return this.#header(type, value.length).bytes(value).pad();
  }

  /** An attribute whose presence is its value. */
  attrFlag(type: number): this {
    return this.#header(type, 0);
  }

  attrU8(type: number, value: number): this {
    return this.#header(type, 1).u8(value).pad();
  }

  attrU16(type: number, value: number): this {
    return this.#header(type, 2).u16(value).pad();
  }

  attrU32(type: number, value: number): this {
    return this.#header(type, 4).u32(value);
  }

  attrU64(type: number, value: bigint): this {
    return this.#header(type, 8).u64(value);
  }

  attrU16be(type: number, value: number): this {
    return this.#header(type, 2).u16be(value).pad();
  }

  attrU32be(type: number, value: number): this {
    return this.#header(type, 4).u32be(value);
  }

  attrU64be(type: number, value: bigint): this {
    return this.#header(type, 8).u64be(value);
  }

  /** Text with the NUL that the kernel's string attributes end in. */
  attrText(type: number, value: string): this {
    const text = encoder.encode(value);
    return this.#header(type, text.length + 1)
      .bytes(text)
      .u8(0)
      .pad();
  }

  /** An attribute of attributes: whatever `fill` appends. NLA_F_NESTED is set. */
  nest(type: number, fill: (writer: Writer) => void): this {
    const mark = this.beginNest(type);
    fill(this);
    return this.endNest(mark);
  }

  /** {@link nest} without a closure, for hot loops: give the mark to {@link endNest}. */
  beginNest(type: number): number {
    const mark = this.#length;
    this.u16(0).u16(type | NLA_F_NESTED);
    return mark;
  }

  endNest(mark: number): this {
    const length = this.#length - mark;
    if (length > NLA_LENGTH_MAX) throw tooLong(this.#view.getUint16(mark + 2, true), length);
    return this.setU16(mark, length).pad();
  }

  /** What was written so far: a view, valid until the next write. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

function tooLong(type: number, length: number): RangeError {
  return new RangeError(
    `attribute ${type & NLA_TYPE_MASK}: ${length} bytes, the limit of one attribute is ${NLA_LENGTH_MAX}`,
  );
}

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
 */
export class Attributes implements Iterable<Attribute> {
  readonly #list: readonly Attribute[];
  readonly #what: string;

  private constructor(list: readonly Attribute[], what: string) {
    this.#list = list;
    this.#what = what;
  }

  /** `what` names the place in errors. Trailing bytes too few for a header are padding, as for the kernel. */
  static parse(bytes: Uint8Array, what = 'attributes'): Attributes {
    const list: Attribute[] = [];
    const view = viewOf(bytes);
    let at = 0;
    while (at + NLA_HEADER_BYTES <= bytes.length) {
      const length = view.getUint16(at, true);
      const type = view.getUint16(at + 2, true) & NLA_TYPE_MASK;
      if (length < NLA_HEADER_BYTES || at + length > bytes.length) {
        throw new MalformedMessageError(
          `${what}: attribute ${type} at byte ${at} says ${length} bytes, ${bytes.length - at} are left`,
        );
      }
      list.push({ type, value: bytes.subarray(at + NLA_HEADER_BYTES, at + length) });
      at += align4(length);
    }
    return new Attributes(list, what);
  }

  [Symbol.iterator](): Iterator<Attribute> {
    return this.#list[Symbol.iterator]();
  }

  has(type: number): boolean {
    return this.get(type) !== undefined;
  }

  get(type: number): Uint8Array | undefined {
    return this.#list.findLast((attribute) => attribute.type === type)?.value;
  }

  #view(type: number, count: number): DataView | undefined {
    const value = this.get(type);
    if (value === undefined) return undefined;
    if (value.length < count) throw this.#short(type, value.length, count);
    return viewOf(value);
  }

  #short(type: number, length: number, expected: number): MalformedMessageError {
    return new MalformedMessageError(
      `${this.#what}: attribute ${type} has ${length} bytes, ${expected} expected`,
    );
  }

  u8(type: number): number | undefined {
    return this.#view(type, 1)?.getUint8(0);
  }

  u16(type: number): number | undefined {
    return this.#view(type, 2)?.getUint16(0, true);
  }

  u16be(type: number): number | undefined {
    return this.#view(type, 2)?.getUint16(0, false);
  }

  u32(type: number): number | undefined {
    return this.#view(type, 4)?.getUint32(0, true);
  }

  u32be(type: number): number | undefined {
    return this.#view(type, 4)?.getUint32(0, false);
  }

  i32(type: number): number | undefined {
    return this.#view(type, 4)?.getInt32(0, true);
  }

  u64(type: number): bigint | undefined {
    return this.#view(type, 8)?.getBigUint64(0, true);
  }

  u64be(type: number): bigint | undefined {
    return this.#view(type, 8)?.getBigUint64(0, false);
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

/** Bytes as text, up to the first NUL. */
export function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return decoder.decode(end < 0 ? bytes : bytes.subarray(0, end));
}
