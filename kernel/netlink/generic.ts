import type { NetlinkMessage } from './message.ts';
import type { NetlinkSocket } from './socket.ts';
import { Attributes, MalformedMessageError, Reader, Writer } from './wire.ts';

export const NETLINK_GENERIC = 16;

/** struct genlmsghdr (linux/genetlink.h): command, version, two reserved bytes. */
const HEADER_BYTES = 4;
const GENL_ID_CTRL = 16;
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;
const CTRL_VERSION = 2;

/** A message of a generic netlink family, less its number, which each kernel gives out at run time. */
export interface GenericMessage {
  readonly command: number;
  readonly version: number;
  readonly attributes: Uint8Array;
}

export function encodeGeneric({ command, version, attributes }: GenericMessage): Uint8Array {
  const writer = new Writer(HEADER_BYTES + attributes.length);
  return writer.u8(command).u8(version).u16(0).bytes(attributes).finish();
}

/** Throws MalformedMessageError. */
export function decodeGeneric(payload: Uint8Array): GenericMessage {
  const reader = new Reader(payload, 'generic netlink');
  const command = reader.u8();
  const version = reader.u8();
  return { command, version, attributes: reader.skip(2).rest() };
}

/** The number of a family in this kernel; ENOENT where its module is not there. */
export async function readFamilyId(socket: NetlinkSocket, family: string): Promise<number> {
  const attributes = new Writer().attrText(CTRL_ATTR_FAMILY_NAME, family).finish();
  const payload = encodeGeneric({ command: CTRL_CMD_GETFAMILY, version: CTRL_VERSION, attributes });
  const operation = `CTRL_CMD_GETFAMILY ${family}`;
  const message: NetlinkMessage = { type: GENL_ID_CTRL, flags: 0, payload, operation };
  const [answer] = await socket.request(message);
  if (answer === undefined) throw new MalformedMessageError(`${operation}: no answer`);
  const id = Attributes.parse(decodeGeneric(answer.payload).attributes, operation).u16(CTRL_ATTR_FAMILY_ID);
  if (id === undefined) throw new MalformedMessageError(`${operation}: no number`);
  return id;
}
