import type { Family } from '../../../core/address.ts';
import type { NetlinkMessage } from '../message.ts';
import { Attributes, Writer } from '../wire.ts';
import * as ct from './constants.ts';
import { decodeFlow, type Flow } from './flow.ts';

/** A flow and the bytes of its packets, with their IP headers. */
export interface CountedFlow {
  readonly flow: Flow;
  /** In the direction of the first packet. */
  readonly originalBytes: number;
  readonly replyBytes: number;
}

/** struct nfgenmsg */
const GENMSG_BYTES = 4;

/**
 * IPCTNL_MSG_CT_GET for a dump of the flows whose destination is translated. A kernel before 5.18 passes over the
 * filter and sends all flows of the family.
 */
export function getTranslatedFlows(family: Family): NetlinkMessage {
  const payload = new Writer()
    .u8(ct.protocolFamilies[family])
    .u8(0)
    .u16be(0)
    .attrU32be(ct.flow.STATUS, ct.flowStatus.dnat)
    .attrU32be(ct.flow.STATUS_MASK, ct.flowStatus.dnat)
    .finish();
  return { type: ct.message.GET, flags: 0, payload, operation: 'IPCTNL_MSG_CT_GET translated' };
}

/** Undefined: its destination is not translated, or it began before the kernel counted bytes. */
export function decodeCountedFlow(payload: Uint8Array): CountedFlow | undefined {
  const attributes = Attributes.parse(payload.subarray(GENMSG_BYTES), 'conntrack flow');
  if (((attributes.u32be(ct.flow.STATUS) ?? 0) & ct.flowStatus.dnat) === 0) return undefined;
  const originalBytes = bytesOf(attributes, ct.flow.COUNTERS_ORIG);
  const replyBytes = bytesOf(attributes, ct.flow.COUNTERS_REPLY);
  if (originalBytes === undefined || replyBytes === undefined) return undefined;
  const flow = decodeFlow(payload);
  return flow && { flow, originalBytes, replyBytes };
}

function bytesOf(attributes: Attributes, direction: number): number | undefined {
  const bytes = attributes.nested(direction)?.u64be(ct.counters.BYTES);
  return bytes === undefined ? undefined : Number(bytes);
}
