import type { Family } from '../../core/address.ts';
import { ipFromBytes } from '../../core/address.ts';
import type { Change } from '../../core/rows.ts';
import { bytesOfHex } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { protocolNumbers } from '../../proxy/protocol.ts';

// Elements as text, much as nft lists them.

export function renderChange(change: Change<string, NftElement>, family: Family): string {
  switch (change.kind) {
    case 'create':
      return `+ ${renderElement(change.wanted, family)}`;
    case 'delete':
      return `- ${renderElement(change.actual, family)}`;
    case 'update': {
      const was = renderElement(change.actual, family).split(' : ')[1];
      return `~ ${renderElement(change.wanted, family)} (was ${was})`;
    }
  }
}

type Part = 'ip' | 'proto' | 'port' | 'value' | 'number';

const shapes: Readonly<Record<string, { key: readonly Part[]; data?: readonly Part[] }>> = {
  services: { key: ['ip', 'proto', 'port'], data: ['value'] },
  nodeports: { key: ['proto', 'port'], data: ['value'] },
  endpoints: { key: ['value', 'proto', 'number'], data: ['ip', 'port'] },
  'no-endpoints': { key: ['ip', 'proto', 'port'] },
  'no-endpoint-nodeports': { key: ['proto', 'port'] },
  'nodeport-addresses': { key: ['ip'] },
  'pod-networks': { key: ['ip'] },
  hairpin: { key: ['ip', 'ip'] },
  'services-inside': { key: ['ip', 'proto', 'port'], data: ['value'] },
  'nodeports-inside': { key: ['proto', 'port'], data: ['value'] },
  'guarded-services': { key: ['ip', 'proto', 'port'], data: ['value'] },
  'source-ranges': { key: ['value', 'ip'] },
  'cluster-ips': { key: ['ip'] },
  'service-networks': { key: ['ip'] },
  tokens: { key: ['value', 'proto', 'number'], data: ['value'] },
  sticky: { key: ['value', 'proto'], data: ['ip', 'port'] },
  'sticky-local': { key: ['value', 'proto'], data: ['ip', 'port'] },
  lists: { key: ['value'], data: ['value'] },
  'lists-local': { key: ['value'], data: ['value'] },
  timeouts: { key: ['value'] },
  draws: { key: ['value'] },
  kinds: { key: ['value'] },
  'kinds-allowed': { key: ['value'] },
  slots: { key: ['value'] },
};

export function renderElement({ set, key, keyEnd, data }: NftElement, family: Family): string {
  const shape = shapes[set];
  if (shape === undefined) throw new Error(`no shape for set ${set}`);
  const end = keyEnd === undefined ? '' : `-${renderParts(keyEnd, shape.key, family)}`;
  const left = `${set} ${renderParts(key, shape.key, family)}${end}`;
  if (data === undefined) return left;
  if (typeof data === 'string') return `${left} : ${renderParts(data, shape.data ?? [], family)}`;
  return `${left} : ${data.verdict}${'chain' in data ? ` ${data.chain}` : ''}`;
}

function renderParts(hex: string, parts: readonly Part[], family: Family): string {
  const bytes = Buffer.from(bytesOfHex(hex));
  let at = 0;
  const texts = parts.map((part) => {
    const size = part === 'ip' && family === 6 ? 16 : 4;
    const text = renderPart(bytes.subarray(at, at + size), part);
    at += size;
    return text;
  });
  if (at !== bytes.length) throw new Error(`${hex} has not the parts ${parts.join(' . ')}`);
  return texts.join(' . ');
}

function renderPart(bytes: Buffer, part: Part): string {
  switch (part) {
    case 'ip':
      return ipFromBytes(bytes);
    case 'proto':
      return Object.entries(protocolNumbers).find(([, number]) => number === bytes[0])?.[0] ?? `${bytes[0]}`;
    case 'port':
      return `${bytes.readUInt16BE()}`;
    case 'number':
      return `${bytes.readUInt32LE()}`;
    case 'value': {
      const value = bytes.readUInt32LE();
      return `${(value >>> 16).toString(16)}:${(value & 0xffff).toString(16)}`;
    }
  }
}
