import { createPrivateKey, createPublicKey, randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** Keys of Curve25519, 32 bytes as base64. */
export interface WireguardKeys {
  readonly privateKey: string;
  readonly publicKey: string;
}

/** PKCS #8 around a key of X25519 (RFC 8410 §7): what node:crypto wants in front of the 32 bytes. */
const pkcs8Prefix = Buffer.from('302e020100300506032b656e04220420', 'hex');
const KEY_BYTES = 32;

export function isWireguardKey(text: string): boolean {
  const bytes = Buffer.from(text, 'base64');
  return bytes.length === KEY_BYTES && bytes.toString('base64') === text;
}

export function wireguardKeys(text: string): WireguardKeys {
  const privateKey = clamp(Buffer.from(text, 'base64')).toString('base64');
  const der = Buffer.concat([pkcs8Prefix, Buffer.from(privateKey, 'base64')]);
  const { x } = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })).export({
    format: 'jwk',
  });
  return { privateKey, publicKey: Buffer.from(x ?? '', 'base64url').toString('base64') };
}

export function makePrivateKey(): string {
  return clamp(randomBytes(KEY_BYTES)).toString('base64');
}

/** RFC 7748 §5. The kernel does it as well, and tells the key so. */
function clamp(bytes: Buffer): Buffer {
  bytes[0] = (bytes[0] ?? 0) & 248;
  bytes[KEY_BYTES - 1] = ((bytes[KEY_BYTES - 1] ?? 0) & 127) | 64;
  return bytes;
}

/**
 * The keys of this node: those of the file, which is made (mode 0600) where there is none. The file must outlive a
 * reboot: peers know the node by its key. Throws when what stands there is no key, rather than become somebody else.
 * `inherited` is flanneld's file: a node that it was on stays who it is to its peers.
 */
export function readWireguardKeys(path: string, inherited?: string): WireguardKeys {
  const text = readKeyFile(path) ?? makeKeyFile(path, inheritedKey(inherited) ?? makePrivateKey());
  if (!isWireguardKey(text)) throw new Error(`${path}: not a key of WireGuard (base64 of 32 bytes)`);
  return wireguardKeys(text);
}

function readKeyFile(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function inheritedKey(path: string | undefined): string | undefined {
  const text = path === undefined ? undefined : readKeyFile(path);
  return text !== undefined && isWireguardKey(text) ? text : undefined;
}

/** Whole or not at all, and never over a file that came meanwhile. */
function makeKeyFile(path: string, key: string): string {
  mkdirSync(dirname(path), { recursive: true });
  const beside = `${path}.${process.pid}`;
  writeFileSync(beside, `${key}\n`, { mode: 0o600, flush: true });
  try {
    linkSync(beside, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    rmSync(beside, { force: true });
  }
  return readFileSync(path, 'utf8').trim();
}
