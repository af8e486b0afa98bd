/*
 * Messages of D-Bus, as far as a caller needs them: calls whose arguments are texts, and the answers to them.
 * Format: https://dbus.freedesktop.org/doc/dbus-specification.html, "Message Protocol".
 */

export interface BusCall {
  readonly destination: string;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly args?: readonly string[];
  /** Whether the bus may start a service that is not there. */
  readonly mayStart?: boolean;
}

/** What the bus or a service says to a call; `value` is the first of the body. */
export interface BusReply {
  readonly to: number;
  /** Undefined: the call succeeded. */
  readonly error?: string | undefined;
  readonly value: BusValue | undefined;
}

/** Dictionaries are lists of pairs. */
export type BusValue = string | number | boolean | readonly BusValue[];

const littleEndian = 0x6c;
const protocolVersion = 1;
const messageTypes = { call: 1, answer: 2, error: 3 } as const;
const flagNoAutoStart = 2;
/** Codes of header fields. */
const fields = {
  path: 1,
  interface: 2,
  member: 3,
  errorName: 4,
  replySerial: 5,
  destination: 6,
  signature: 8,
} as const;
/** Of the header before its fields: with the length of their array. */
const fixedBytes = 16;
const messageBytesMax = 16 << 20;

/** Texts with a NUL cannot be sent; the caller sees to that. */
export function encodeCall(call: BusCall, serial: number): Uint8Array {
  const args = call.args ?? [];
  const body = new BusWriter();
  for (const arg of args) body.text(arg);
  const header = new BusWriter();
  header.field(fields.path, 'o', call.path);
  header.field(fields.interface, 's', call.interface);
  header.field(fields.member, 's', call.member);
  header.field(fields.destination, 's', call.destination);
  if (args.length > 0) header.field(fields.signature, 'g', 's'.repeat(args.length));
  const fieldBytes = header.length;
  header.align(8);
  const fixed = Buffer.alloc(fixedBytes);
  fixed.set([littleEndian, messageTypes.call, call.mayStart ? 0 : flagNoAutoStart, protocolVersion]);
  fixed.writeUInt32LE(body.length, 4);
  fixed.writeUInt32LE(serial, 8);
  fixed.writeUInt32LE(fieldBytes, 12);
  return Buffer.concat([fixed, header.bytes(), body.bytes()]);
}

/**
 * The first message of what was received, with the number of its bytes. Undefined: it is not complete yet. Messages
 * that answer nothing have no reply. Throws for what is no message.
 */
export function decodeMessage(bytes: Uint8Array): { reply?: BusReply; length: number } | undefined {
  if (bytes.length < fixedBytes) return undefined;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (buffer[0] !== littleEndian || buffer[3] !== protocolVersion) throw new Error('no message of D-Bus');
  const bodyAt = aligned(fixedBytes + buffer.readUInt32LE(12), 8);
  const length = bodyAt + buffer.readUInt32LE(4);
  if (length > messageBytesMax) throw new Error(`a message of D-Bus has ${length} bytes`);
  if (buffer.length < length) return undefined;
  const type = buffer[1];
  if (type !== messageTypes.answer && type !== messageTypes.error) return { length };
  const header = new BusReader(buffer.subarray(0, bodyAt), fixedBytes - 4);
  const found = new Map(
    (header.value('a(yv)') as [number, BusValue][]).map(([code, value]) => [code, value]),
  );
  const signature = String(found.get(fields.signature) ?? '');
  const body = new BusReader(buffer.subarray(bodyAt, length), 0);
  const reply = {
    to: Number(found.get(fields.replySerial)),
    error: type === messageTypes.error ? String(found.get(fields.errorName)) : undefined,
    value: signature === '' ? undefined : body.value(firstOf(signature)),
  };
  return { reply, length };
}

function aligned(at: number, to: number): number {
  return Math.ceil(at / to) * to;
}

class BusWriter {
  #bytes = Buffer.alloc(0);

  get length(): number {
    return this.#bytes.length;
  }

  bytes(): Uint8Array {
    return this.#bytes;
  }

  align(to: number): void {
    this.#put(Buffer.alloc(aligned(this.length, to) - this.length));
  }

  text(text: string): void {
    this.align(4);
    const bytes = Buffer.from(`${text}\0`);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length - 1);
    this.#put(length, bytes);
  }

  field(code: number, type: 'o' | 's' | 'g', text: string): void {
    this.align(8);
    this.#put(Buffer.from([code, 1]), Buffer.from(`${type}\0`));
    if (type === 'g') this.#put(Buffer.from([text.length]), Buffer.from(`${text}\0`));
    else this.text(text);
  }

  #put(...more: readonly Uint8Array[]): void {
    this.#bytes = Buffer.concat([this.#bytes, ...more]);
  }
}

/** Of values inside values; the specification's limits of arrays and structures together. */
const depthMax = 64;

class BusReader {
  readonly #buffer: Buffer;
  #at: number;

  constructor(buffer: Buffer, at: number) {
    this.#buffer = buffer;
    this.#at = at;
  }

  /** One value of one complete type. Throws for types that it does not know. */
  value(type: string, depth = 0): BusValue {
    if (depth > depthMax) throw new Error('a value of D-Bus lies too deep');
    switch (type[0]) {
      case 'y':
        return this.#number(1);
      case 'b':
        return this.#number(4) !== 0;
      case 'u':
        return this.#number(4);
      case 's':
      case 'o':
        return this.#text(this.#number(4));
      case 'g':
        return this.#text(this.#number(1));
      case 'v':
        return this.value(firstOf(this.#text(this.#number(1))), depth + 1);
      case 'a':
        return this.#array(type.slice(1), depth + 1);
      case '(':
      case '{':
        return this.#struct(type.slice(1, -1), depth + 1);
      default:
        throw new Error(`a value of D-Bus of type ${JSON.stringify(type)}`);
    }
  }

  #number(bytes: 1 | 4): number {
    this.#at = aligned(this.#at, bytes);
    const number = bytes === 1 ? this.#buffer.readUInt8(this.#at) : this.#buffer.readUInt32LE(this.#at);
    this.#at += bytes;
    return number;
  }

  #text(length: number): string {
    const text = this.#buffer.toString('utf8', this.#at, this.#at + length);
    this.#at += length + 1;
    return text;
  }

  #array(type: string, depth: number): BusValue[] {
    const length = this.#number(4);
    if (/^[({]/.test(type)) this.#at = aligned(this.#at, 8);
    const end = this.#at + length;
    const values: BusValue[] = [];
    while (this.#at < end) {
      const before = this.#at;
      values.push(this.value(type, depth));
      if (this.#at === before) throw new Error('a value of D-Bus has no length');
    }
    return values;
  }

  #struct(types: string, depth: number): BusValue[] {
    this.#at = aligned(this.#at, 8);
    const values: BusValue[] = [];
    for (let rest = types; rest !== ''; ) {
      const type = firstOf(rest);
      values.push(this.value(type, depth));
      rest = rest.slice(type.length);
    }
    return values;
  }
}

/** The first complete type of a signature. */
function firstOf(signature: string): string {
  let depth = 0;
  for (let at = 0; at < signature.length; at += 1) {
    const letter = signature[at] ?? '';
    if (letter === '(' || letter === '{') depth += 1;
    else if (letter === ')' || letter === '}') depth -= 1;
    if (depth === 0 && letter !== 'a') return signature.slice(0, at + 1);
  }
  throw new Error(`a signature of D-Bus ends early: ${JSON.stringify(signature)}`);
}
