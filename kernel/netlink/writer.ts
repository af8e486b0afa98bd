/** The top two bits of nla_type: nested, and network byte order. */
export const NLA_F_NESTED = 0x8000;
export const NLA_TYPE_MASK = 0x3fff;
export const NLA_HEADER_BYTES = 4;
/** nla_len is 16 bit. The kernel would take a longer list as a shorter one, silently. */
const NLA_LENGTH_MAX = 0xffff;

const encoder = new TextEncoder();

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
