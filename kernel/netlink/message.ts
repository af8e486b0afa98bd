import { type ExtendedAck, KernelError } from '../errors.ts';
import { type Attributes, align4, MalformedMessageError, Reader, Writer } from './wire.ts';

export const NLM_F_REQUEST = 0x1;
export const NLM_F_MULTI = 0x2;
export const NLM_F_ACK = 0x4;
/** The dump saw the table change under it: it may miss rows. */
/** The kernel answers with what it did. */
export const NLM_F_ECHO = 0x8;
export const NLM_F_DUMP_INTR = 0x10;
/** For requests that make something. */
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLM_F_APPEND = 0x800;
/** For requests that read: NLM_F_ROOT | NLM_F_MATCH. */
export const NLM_F_DUMP = 0x300;
/** On NLMSG_ERROR: the refused message is not repeated after its header. */
export const NLM_F_CAPPED = 0x100;
/** On NLMSG_ERROR and NLMSG_DONE: attributes with the kernel's own words follow. */
export const NLM_F_ACK_TLVS = 0x200;

export const NLMSG_NOOP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

const HEADER_BYTES = 16;
const NLMSGERR_ATTR_MSG = 1;
const NLMSGERR_ATTR_OFFS = 2;

/** One message without what the socket fills in (length, sequence number, port). */
export interface NetlinkMessage {
  readonly type: number;
  /** NLM_F_… ; NLM_F_REQUEST is always added. */
  readonly flags: number;
  /** Family header and attributes. */
  readonly payload: Uint8Array;
  /** For errors: "RTM_NEWROUTE 10.1.0.0/24". */
  readonly operation?: string | undefined;
}

export interface ReceivedMessage extends NetlinkMessage {
  readonly sequence: number;
  readonly portId: number;
}

/** The name of a message in errors. */
export function operationOf(message: NetlinkMessage): string {
  return message.operation ?? `netlink message ${message.type}`;
}

/** One datagram: message number i gets sequence number `firstSequence` + i. */
export function frameMessages(
  messages: readonly NetlinkMessage[],
  firstSequence: number,
  extraFlags = 0,
): Uint8Array {
  const size = messages.reduce((sum, message) => sum + framedBytes(message), 0);
  const writer = new Writer(size);
  messages.forEach((message, index) => {
    writer.u32(HEADER_BYTES + message.payload.length).u16(message.type);
    writer.u16(message.flags | NLM_F_REQUEST | extraFlags);
    writer.u32((firstSequence + index) >>> 0).u32(0);
    writer.bytes(message.payload).pad();
  });
  return writer.finish();
}

/** Bytes that a message takes in a datagram. */
export function framedBytes(message: NetlinkMessage): number {
  return align4(HEADER_BYTES + message.payload.length);
}

/** Cuts what was received into messages. Payloads are views of `bytes`. */
export function parseMessages(bytes: Uint8Array): ReceivedMessage[] {
  const messages: ReceivedMessage[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  while (at < bytes.length) {
    const left = bytes.length - at;
    const length = left < HEADER_BYTES ? 0 : view.getUint32(at, true);
    if (length < HEADER_BYTES || length > left) {
      throw new MalformedMessageError(`netlink message at byte ${at} says ${length} bytes, ${left} are left`);
    }
    messages.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      portId: view.getUint32(at + 12, true),
      payload: bytes.subarray(at + HEADER_BYTES, at + length),
    });
    at += align4(length);
  }
  return messages;
}

/** What an NLMSG_ERROR or NLMSG_DONE says. */
export interface Ack extends ExtendedAck {
  /** 0 = done as asked; else a positive errno. */
  readonly errno: number;
}

/** Reads NLMSG_ERROR (acknowledgements are errors with number 0) and NLMSG_DONE. */
export function parseAck(message: NetlinkMessage): Ack {
  const reader = new Reader(message.payload, 'netlink acknowledgement');
  // A dump that simply ended may come without the number.
  const errno = message.type === NLMSG_DONE && reader.remaining < 4 ? 0 : -reader.i32();
  if (message.type === NLMSG_ERROR) skipRefusedMessage(reader, message.flags);
  if ((message.flags & NLM_F_ACK_TLVS) === 0) return { errno: errno === 0 ? 0 : errno };
  const attributes: Attributes = reader.attributes();
  return {
    errno,
    detail: attributes.text(NLMSGERR_ATTR_MSG),
    offset: attributes.u32(NLMSGERR_ATTR_OFFS),
  };
}

function skipRefusedMessage(reader: Reader, flags: number): void {
  const length = reader.u32();
  reader.skip(HEADER_BYTES - 4);
  if ((flags & NLM_F_CAPPED) !== 0) return;
  if (length < HEADER_BYTES) {
    throw new MalformedMessageError(`netlink acknowledgement: the refused message says ${length} bytes`);
  }
  // Shorter in fact when the receiver cut it; then no attributes follow either.
  reader.skip(Math.min(align4(length - HEADER_BYTES), reader.remaining));
}

/** The error that an acknowledgement of `message` stands for; undefined when it was done. */
export function errorOf(message: NetlinkMessage, ack: Ack): KernelError | undefined {
  return ack.errno === 0 ? undefined : new KernelError(operationOf(message), ack.errno, ack);
}
