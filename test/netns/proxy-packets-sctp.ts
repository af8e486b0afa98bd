import type { Outcome } from '../../cli/cluster/workload.ts';
import type { Ip } from '../../core/address.ts';
import { ipProtocols, parseUnreachable, type RawPacket, type RawPort } from './proxy-packets-raw.ts';

/*
 * The first two packets of an SCTP association (RFC 9260): INIT, answered by INIT ACK. Its cookie, which the client
 * only hands back, says who answers and whom that one saw.
 */

const INIT = 1;
const INIT_ACK = 2;
const STATE_COOKIE = 7;
const CLIENT_TAG = 0x46_4c_31;
const SERVER_TAG = 0x46_4c_32;
const HEADER_BYTES = 12;
/** Type, flags, length, initiate tag, window, streams out and in, first number. */
const INIT_BYTES = 20;

interface Association {
  readonly sourcePort: number;
  readonly port: number;
  readonly tag: number;
  readonly chunk: Buffer;
}

/** Answers in a pod until the function that it gives is called. */
export function serveSctp(peer: RawPort, name: string, port: number): () => void {
  return peer.listen((packet) => {
    const init = parseSctp(packet);
    if (init === undefined || init.port !== port || init.chunk.readUInt8(0) !== INIT) return;
    const answer = Buffer.from(JSON.stringify({ name, peer: packet.source }));
    const tag = init.chunk.readUInt32BE(4);
    const ends = { source: packet.destination, destination: packet.source };
    peer.send(sctp(ends, { ...init, sourcePort: port, port: init.sourcePort, tag }, initAck(answer)));
  });
}

/** What comes back to an INIT, which is sent again now and then. */
export async function connectSctp(
  client: RawPort,
  source: Ip,
  at: { readonly ip: Ip; readonly port: number },
  timeoutMs: number,
): Promise<Outcome> {
  const startMs = performance.now();
  const sourcePort = takePort();
  const ends = { source, destination: at.ip };
  const init = sctp(ends, { sourcePort, port: at.port, tag: 0 }, chunkOf(INIT, initBody(CLIENT_TAG)));
  const { promise, resolve } = Promise.withResolvers<Partial<Outcome> & Pick<Outcome, 'ok'>>();
  const stop = client.listen((packet) => {
    const unreachable = parseUnreachable(packet);
    if (unreachable?.destination === at.ip && unreachable.transport.readUInt16BE(0) === sourcePort)
      resolve({ ok: false, error: unreachable.isPort ? 'ECONNREFUSED' : `unreachable: ${unreachable.code}` });
    const heard = parseSctp(packet);
    if (packet.source !== at.ip || heard?.port !== sourcePort || heard.sourcePort !== at.port) return;
    if (heard.tag === CLIENT_TAG && heard.chunk.readUInt8(0) === INIT_ACK)
      resolve({ ok: true, answer: JSON.parse(heard.chunk.subarray(INIT_BYTES + 4).toString()) });
  });
  const again = setInterval(() => client.send(init), RESEND_MS);
  const timer = setTimeout(() => resolve({ ok: false, error: 'ETIMEDOUT' }), timeoutMs);
  client.send(init);
  try {
    return { ...(await promise), ms: performance.now() - startMs } as Outcome;
  } finally {
    stop();
    clearInterval(again);
    clearTimeout(timer);
  }
}

const RESEND_MS = 1_000;

const PORT_MIN = 20_000;
const PORT_COUNT = 40_000;
let taken = Math.floor(Math.random() * PORT_COUNT);

/**
 * Each but once. IPVS tells connections apart by the client's address and port and the endpoint's, not by the virtual
 * address: of two at once from one port, to two services with the same endpoint, one would get the other's answer.
 */
function takePort(): number {
  taken = (taken + 1) % PORT_COUNT;
  return PORT_MIN + taken;
}

function parseSctp({ protocol, payload }: RawPacket): Association | undefined {
  if (protocol !== ipProtocols.sctp || payload.length < HEADER_BYTES + INIT_BYTES) return undefined;
  const chunk = payload.subarray(HEADER_BYTES);
  return {
    sourcePort: payload.readUInt16BE(0),
    port: payload.readUInt16BE(2),
    tag: payload.readUInt32BE(4),
    chunk: chunk.subarray(0, chunk.readUInt16BE(2)),
  };
}

function sctp(
  ends: Pick<RawPacket, 'source' | 'destination'>,
  { sourcePort, port, tag }: Omit<Association, 'chunk'>,
  chunk: Buffer,
): RawPacket {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt16BE(sourcePort, 0);
  header.writeUInt16BE(port, 2);
  header.writeUInt32BE(tag, 4);
  const padded = Buffer.concat([header, chunk, Buffer.alloc(-chunk.length & 3)]);
  padded.writeUInt32LE(crc32c(padded), 8);
  return { ...ends, protocol: ipProtocols.sctp, payload: padded };
}

function chunkOf(type: number, body: Buffer): Buffer {
  const head = Buffer.from([type, 0, 0, 0]);
  head.writeUInt16BE(head.length + body.length, 2);
  return Buffer.concat([head, body]);
}

function initBody(tag: number): Buffer {
  const body = Buffer.alloc(INIT_BYTES - 4);
  body.writeUInt32BE(tag, 0);
  body.writeUInt32BE(65_536, 4);
  body.writeUInt16BE(1, 8);
  body.writeUInt16BE(1, 10);
  body.writeUInt32BE(1, 12);
  return body;
}

function initAck(cookie: Buffer): Buffer {
  const parameter = Buffer.from([0, STATE_COOKIE, 0, 0]);
  parameter.writeUInt16BE(parameter.length + cookie.length, 2);
  return chunkOf(INIT_ACK, Buffer.concat([initBody(SERVER_TAG), parameter, cookie]));
}

/** RFC 9260, appendix A */
function crc32c(bytes: Buffer): number {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}
