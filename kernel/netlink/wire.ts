/**
 * Bytes and attributes (struct nlattr) of netlink messages. Host order is little-endian on every machine that
 * Fairlead runs on (x86-64, arm64); fields in network order have names ending in `be`.
 */
export { Attributes, MalformedMessageError, Reader, textOf } from './reader.ts';
export { align4, NLA_F_NESTED, Writer } from './writer.ts';
