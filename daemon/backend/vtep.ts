import { createHash } from 'node:crypto';
import { type Family, type Mac, macFromBytes, macToBytes, parseMac } from '../../core/address.ts';
import { isOlder } from '../lease.ts';
import type { Standing } from './backend.ts';

/*
 * MAC addresses of tunnels' ends. A node's is made of its name, so that peers' entries stay valid whatever happens to
 * the device. Two nodes of one name (copies of a machine, a host called "node") would have the same, and packets for
 * one would go to the other: the older lease has it, and the later node makes its own of its lease as well.
 */

/**
 * The MAC address that a name gives: the same after every restart and on every machine that computes it, locally
 * administered and unicast.
 */
export function vtepMac(name: string, family: Family): Mac {
  const bytes = createHash('sha256').update(`fairlead vtep ${family} ${name}`).digest();
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return macFromBytes(bytes);
}

/** As a lease's data says; undefined when that cannot be one node's. */
export function macOf(data: unknown): Mac | undefined {
  const { VtepMAC: text } = (data ?? {}) as { VtepMAC?: unknown };
  const mac = typeof text === 'string' ? parseMac(text) : undefined;
  if (mac === undefined || mac === '00:00:00:00:00:00') return undefined;
  return ((macToBytes(mac)[0] ?? 0) & 1) === 1 ? undefined : mac;
}

/** The MAC address that this node is to announce. One that it made of its lease is kept as long as the lease. */
export function chooseMac(nodeName: string, family: Family, { key, backendData, leases }: Standing): Mac {
  const usual = vtepMac(nodeName, family);
  if (key === undefined) return usual;
  const other = vtepMac(`${nodeName} ${key}`, family);
  if (macOf(backendData?.[family]) === other) return other;
  const own = leases.get(key);
  if (own === undefined) return usual;
  const capitals = usual.toUpperCase();
  // All leases are looked through in every pass: nothing is parsed.
  for (const lease of leases.values()) {
    const text = (lease.backendData[family] as { VtepMAC?: unknown } | null | undefined)?.VtepMAC;
    if ((text === usual || text === capitals) && lease !== own && isOlder(lease, own)) return other;
  }
  return usual;
}
