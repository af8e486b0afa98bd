import fc from 'fast-check';
import {
  addressBits,
  type Cidr,
  type Family,
  type HostCidr,
  hostCidr,
  type Ip,
  ipFromBytes,
  type Mac,
  macFromBytes,
  networkOf,
} from '../../core/address.ts';

// Addresses for property tests, of every shape that has a shape of its own in text.

export const family: fc.Arbitrary<Family> = fc.constantFrom(4, 6);

function bytes(count: number): fc.Arbitrary<Uint8Array> {
  const byte = fc.oneof(fc.constantFrom(0, 1, 255), fc.integer({ min: 0, max: 255 }));
  return fc.array(byte, { minLength: count, maxLength: count }).map((list) => Uint8Array.from(list));
}

/** Runs of zeros, and IPv4 inside IPv6. */
const ipv6Bytes = fc.oneof(
  bytes(16),
  fc.tuple(bytes(16), fc.nat(15), fc.nat(16)).map(([all, from, to]) => all.fill(0, from, to)),
  bytes(4).map((tail) => Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...tail])),
  bytes(4).map((tail) => Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...tail])),
);

export function ipOfFamily(of: Family): fc.Arbitrary<Ip> {
  return (of === 4 ? bytes(4) : ipv6Bytes).map(ipFromBytes);
}

export const ip: fc.Arbitrary<Ip> = family.chain(ipOfFamily);

export function hostCidrOfFamily(of: Family): fc.Arbitrary<HostCidr> {
  return fc
    .tuple(ipOfFamily(of), fc.integer({ min: 0, max: addressBits(of) }))
    .map(([address, length]) => hostCidr(address, length));
}

export const anyHostCidr: fc.Arbitrary<HostCidr> = family.chain(hostCidrOfFamily);

export function cidrOfFamily(of: Family): fc.Arbitrary<Cidr> {
  return hostCidrOfFamily(of).map(networkOf);
}

export const cidr: fc.Arbitrary<Cidr> = family.chain(cidrOfFamily);

export const mac: fc.Arbitrary<Mac> = bytes(6).map(macFromBytes);
