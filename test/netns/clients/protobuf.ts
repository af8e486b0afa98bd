/** A protobuf message to be: by field number, a number is a varint, a list is a repeated field. */
export interface Message {
  readonly [field: number]: Value;
}
type Single = string | number | Message;
type Value = Single | readonly Single[];

/** A protobuf message as it came: by field number, all values in order, nested messages not yet read. */
export type Received = ReadonlyMap<number, readonly (number | Buffer)[]>;

const VARINT = 0;
const BYTES = 2;

export function encodeMessage(message: Message): Buffer {
  const parts = Object.entries(message).flatMap(([field, value]) =>
    (Array.isArray(value) ? value : [value]).map((single: Single) => encodeField(Number(field), single)),
  );
  return Buffer.concat(parts);
}

function encodeField(field: number, value: Single): Buffer {
  if (typeof value === 'number') return Buffer.concat([varint(field * 8 + VARINT), varint(value)]);
  const bytes = typeof value === 'string' ? Buffer.from(value) : encodeMessage(value);
  return Buffer.concat([varint(field * 8 + BYTES), varint(bytes.length), bytes]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return Buffer.from([...bytes, value]);
}

/** Reads varints, texts and messages; throws on fixed-size numbers, which the CRI does not use. */
export function decodeMessage(bytes: Buffer): Received {
  const fields = new Map<number, (number | Buffer)[]>();
  for (let at = 0; at < bytes.length; ) {
    const tag = readVarint(bytes, at);
    const first = readVarint(bytes, tag.end);
    const field = Math.floor(tag.value / 8);
    const wire = tag.value % 8;
    if (wire !== VARINT && wire !== BYTES) throw new Error(`protobuf field ${field} has wire type ${wire}`);
    at = wire === VARINT ? first.end : first.end + first.value;
    const value = wire === VARINT ? first.value : bytes.subarray(first.end, at);
    fields.set(field, [...(fields.get(field) ?? []), value]);
  }
  return fields;
}

function readVarint(bytes: Buffer, start: number): { value: number; end: number } {
  let value = 0;
  for (let at = start, scale = 1; ; at++, scale *= 128) {
    const byte = bytes[at];
    if (byte === undefined) throw new Error('protobuf message ends within a number');
    value += (byte % 128) * scale;
    if (byte < 128) return { value, end: at + 1 };
  }
}

/** The nested messages of a field. */
export function messagesOf(message: Received, field: number): Received[] {
  return (message.get(field) ?? []).map((value) => decodeMessage(bytesOf(value)));
}

/** The text of a field; empty when it is absent, as protobuf has it. */
export function textOf(message: Received | undefined, field: number): string {
  const value = message?.get(field)?.at(-1);
  return value === undefined ? '' : bytesOf(value).toString();
}

function bytesOf(value: number | Buffer): Buffer {
  if (typeof value === 'number') throw new Error(`protobuf field has the number ${value}, not bytes`);
  return value;
}
