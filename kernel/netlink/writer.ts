/** The top two bits of nla_type: nested, and network byte order. */
export const NLA_F_NESTED = 0x8000;
export const NLA_TYPE_MASK = 0x3fff;
export const NLA_HEADER_BYTES = 4;
/** nla_len is 16 bit. The kernel would take a longer list as a shorter one, silently. */
const NLA_LENGTH_MAX = 0xffff;

export function align4(length: number): number {
  return (length + 3) & ~3;
}

/**
 * A growing buffer. Values are appended; attributes are padded to 4 bytes. Small buffers are cut from Node's pool and
 * numbers are stored byte by byte: an ArrayBuffer and a DataView of its own cost a message more than its contents.
 */
export class Writer {
  #bytes: Buffer;
  #length = 0;

  constructor(capacityBytes = 256) {
    this.#bytes = Buffer.allocUnsafe(capacityBytes);
  }

  get length(): number {
    return this.#length;
  }

  #reserve(count: number): number {
    const at = this.#length;
    const end = at + count;
    if (end > this.#bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(end, this.#bytes.length * 2));
      grown.set(this.#bytes.subarray(0, at));
      this.#bytes = grown;
    }
    this.#length = end;
    return at;
  }

  u8(value: number): this {
    const at = this.#reserve(1);
    this.#bytes[at] = value;
    return this;
  }

  u16(value: number): this {
    return this.setU16(this.#reserve(2), value);
  }

  u32(value: number): this {
    return this.setU32(this.#reserve(4), value);
  }

  i32(value: number): this {
    return this.u32(value >>> 0);
  }

  u64(value: bigint): this {
    const at = this.#reserve(8);
    this.#bytes.writeBigUInt64LE(value, at);
    return this;
  }

  u16be(value: number): this {
    const at = this.#reserve(2);
    this.#bytes[at] = value >>> 8;
    this.#bytes[at + 1] = value;
    return this;
  }

  u32be(value: number): this {
    const at = this.#reserve(4);
    const bytes = this.#bytes;
    bytes[at] = value >>> 24;
    bytes[at + 1] = value >>> 16;
    bytes[at + 2] = value >>> 8;
    bytes[at + 3] = value;
    return this;
  }

  u64be(value: bigint): this {
    const at = this.#reserve(8);
    this.#bytes.writeBigUInt64BE(value, at);
    return this;
  }

  bytes(value: Uint8Array): this {
    const at = this.#reserve(value.length);
    this.#bytes.set(value, at);
    return this;
  }

  zeros(count: number): this {
    const at = this.#reserve(count);
    for (let i = at; i < this.#length; i += 1) this.#bytes[i] = 0;
    return this;
  }

  /** Zeros up to the next multiple of four. */
  pad(): this {
    return this.zeros(align4(this.#length) - this.#length);
  }

  /** Overwrites a value written before, such as a length. */
  setU32(at: number, value: number): this {
    const bytes = this.#bytes;
    bytes[at] = value;
    bytes[at + 1] = value >>> 8;
    bytes[at + 2] = value >>> 16;
    bytes[at + 3] = value >>> 24;
    return this;
  }

  setU16(at: number, value: number): this {
    this.#bytes[at] = value;
    this.#bytes[at + 1] = value >>> 8;
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
    const bytes = Buffer.byteLength(value);
    this.#header(type, bytes + 1);
    const at = this.#reserve(bytes);
    this.#bytes.write(value, at);
    return this.u8(0).pad();
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
    if (length > NLA_LENGTH_MAX) throw tooLong(this.#bytes.readUInt16LE(mark + 2), length);
    return this.setU16(mark, length).pad();
  }

  /** What was written so far: a view, valid until the next write. */
  finish(): Uint8Array {
    return new Uint8Array(this.#bytes.buffer, this.#bytes.byteOffset, this.#length);
  }
}

function tooLong(type: number, length: number): RangeError {
  return new RangeError(
    `attribute ${type & NLA_TYPE_MASK}: ${length} bytes, the limit of one attribute is ${NLA_LENGTH_MAX}`,
  );
}
