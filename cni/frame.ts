import type { Environment } from './request.ts';

/** "FLD1", little endian: the first four bytes that the shim sends. */
export const frameMagic = 0x464c4431;
export const frameHeaderBytes = 12;
export const envBytesMax = 256 << 10;
export const stdinBytesMax = 1 << 20;

/** One call of the plugin as the shim sent it. */
export interface RequestFrame {
  readonly env: Environment;
  readonly stdin: Uint8Array;
}

export interface FrameHeader {
  readonly envBytes: number;
  readonly stdinBytes: number;
}

/** Reads the header, or says what is wrong with it. `bytes` has at least {@link frameHeaderBytes}. */
export function parseFrameHeader(bytes: Uint8Array): FrameHeader | string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, frameHeaderBytes);
  if (view.getUint32(0, true) !== frameMagic) return 'this is not the protocol of the Fairlead plugin';
  const envBytes = view.getUint32(4, true);
  const stdinBytes = view.getUint32(8, true);
  if (envBytes > envBytesMax) return `${envBytes} bytes of environment, at most ${envBytesMax} are possible`;
  if (stdinBytes > stdinBytesMax)
    return `${stdinBytes} bytes on standard input, at most ${stdinBytesMax} are possible`;
  return { envBytes, stdinBytes };
}

/** Reads a frame that is there as a whole, or says what is wrong with it. */
export function parseFrame(bytes: Uint8Array): RequestFrame | string {
  if (bytes.length < frameHeaderBytes) return `${bytes.length} bytes are no request`;
  const header = parseFrameHeader(bytes);
  if (typeof header === 'string') return header;
  const stdinAt = frameHeaderBytes + header.envBytes;
  const end = stdinAt + header.stdinBytes;
  if (bytes.length !== end) return `a request of ${end} bytes has ${bytes.length}`;
  return {
    env: parseEnvironment(bytes.subarray(frameHeaderBytes, stdinAt)),
    stdin: bytes.subarray(stdinAt),
  };
}

const decoder = new TextDecoder();

/** `NAME=value\0` one after the other; of equal names the first counts, as for getenv(3). */
export function parseEnvironment(bytes: Uint8Array): Environment {
  const env = new Map<string, string>();
  for (const entry of decoder.decode(bytes).split('\0')) {
    const equals = entry.indexOf('=');
    const name = entry.slice(0, equals);
    if (equals > 0 && !env.has(name)) env.set(name, entry.slice(equals + 1));
  }
  return env;
}

/** What the shim prints on standard output and exits with. */
export function encodeReply(exitCode: number, stdout: string): Uint8Array {
  const length = Buffer.byteLength(stdout);
  const reply = Buffer.allocUnsafe(8 + length);
  reply.writeUInt32LE(exitCode, 0);
  reply.writeUInt32LE(length, 4);
  reply.write(stdout, 8);
  return reply;
}
