import test from 'ava';
import fc from 'fast-check';
import type { Cidr, Ip } from '../../../core/address.ts';
import { decodeGeneric, encodeGeneric } from '../../../kernel/netlink/generic.ts';
import {
  decodeWireguardDevice,
  encodeWireguardDevice,
  joinWireguardDevices,
  type WireguardDevice,
} from '../../../kernel/netlink/generic-wireguard.ts';
import { MalformedMessageError } from '../../../kernel/netlink/wire.ts';
import { cidrOfFamily, family, ip } from '../../core/arbitrary.ts';
import { plain } from './golden.ts';

// The bytes are made by hand after linux/wireguard.h: length and type of each attribute, low byte first.
const key = (byte: string) => byte.repeat(32);
const base64 = (hex: string) => Buffer.from(hex, 'hex').toString('base64');
const bytesOf = (lines: readonly string[]) => Buffer.from(lines.join('').replaceAll(' ', ''), 'hex');

const fixture = bytesOf([
  '0a00 0200 666c2d776700 0000', // WGDEVICE_A_IFNAME "fl-wg"
  `2400 0300 ${key('11')}`, // WGDEVICE_A_PRIVATE_KEY
  '0800 0500 01000000', // WGDEVICE_A_FLAGS: WGDEVICE_F_REPLACE_PEERS
  '0600 0600 6cca 0000', // WGDEVICE_A_LISTEN_PORT 51820
  '0c01 0880', // WGDEVICE_A_PEERS, nested
  '9400 0080', //   a peer, nested
  `2400 0100 ${key('22')}`, //     WGPEER_A_PUBLIC_KEY
  '0800 0300 02000000', //         WGPEER_A_FLAGS: WGPEER_F_REPLACE_ALLOWEDIPS
  '1400 0400 0200 ca6c c0000202 0000000000000000', // WGPEER_A_ENDPOINT 192.0.2.2:51820
  '0600 0500 1900 0000', //        WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL 25
  '4800 0980', //                  WGPEER_A_ALLOWEDIPS, nested
  '1c00 0080', //                    a network, nested
  '0600 0100 0200 0000', //            WGALLOWEDIP_A_FAMILY AF_INET
  '0800 0200 0af40200', //             WGALLOWEDIP_A_IPADDR 10.244.2.0
  '0500 0300 18 000000', //            WGALLOWEDIP_A_CIDR_MASK 24
  '2800 0080', //                    a network, nested
  '0600 0100 0a00 0000', //            AF_INET6
  '1400 0200 fd000010024400020000000000000000',
  '0500 0300 40 000000', //            64
  '7400 0080', //   a peer, nested
  `2400 0100 ${key('33')}`,
  `2400 0200 ${key('44')}`, //     WGPEER_A_PRESHARED_KEY
  '2000 0400 0a00 ca6c 00000000 20010db8000000000000000000000003 00000000', // [2001:db8::3]:51820
  '0600 0500 0000 0000',
]);
const device: WireguardDevice = {
  name: 'fl-wg',
  privateKey: base64(key('11')),
  flags: 1,
  listenPort: 51820,
  peers: [
    {
      publicKey: base64(key('22')),
      flags: 2,
      endpoint: { ip: '192.0.2.2' as Ip, port: 51820 },
      keepaliveSeconds: 25,
      allowedIps: ['10.244.2.0/24' as Cidr, 'fd00:10:244:2::/64' as Cidr],
    },
    {
      publicKey: base64(key('33')),
      presharedKey: base64(key('44')),
      endpoint: { ip: '2001:db8::3' as Ip, port: 51820 },
      keepaliveSeconds: 0,
    },
  ],
};

test('a device of wireguard is written as linux/wireguard.h says, and read back', (t) => {
  t.is(Buffer.from(encodeWireguardDevice(device)).toString('hex'), fixture.toString('hex'));
  t.deepEqual(plain(decodeWireguardDevice(fixture)), plain(device));
});

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const keyText = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map((bytes) => Buffer.from(bytes).toString('base64'));
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const peer = fc.record({
  publicKey: keyText,
  presharedKey: maybe(keyText),
  flags: maybe(u32),
  endpoint: maybe(fc.record({ ip, port: u16 })),
  keepaliveSeconds: maybe(u16),
  lastHandshakeSeconds: maybe(u64),
  receivedBytes: maybe(u64),
  sentBytes: maybe(u64),
  allowedIps: maybe(fc.array(family.chain(cidrOfFamily), { maxLength: 4 })),
});
const anyDevice = fc.record({
  index: maybe(u32),
  name: maybe(fc.stringMatching(/^[a-z0-9.-]{1,15}$/)),
  privateKey: maybe(keyText),
  publicKey: maybe(keyText),
  flags: maybe(u32),
  listenPort: maybe(u16),
  firewallMark: maybe(u32),
  peers: maybe(fc.array(peer, { maxLength: 4 })),
});

test('whatever is written about a device reads the same', (t) => {
  fc.assert(
    fc.property(anyDevice, (value) => {
      t.deepEqual(texts(decodeWireguardDevice(encodeWireguardDevice(value))), texts(value));
    }),
    { numRuns: 300 },
  );
});

/** Numbers of 64 bits as text; what is undefined left out. */
function texts(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}` : part)));
}

test('a message cut or damaged anywhere is read or refused as malformed', (t) => {
  const readOrRefuse = (bytes: Uint8Array) => {
    try {
      decodeWireguardDevice(bytes);
    } catch (error) {
      if (!(error instanceof MalformedMessageError)) throw error;
    }
  };
  for (let length = 0; length < fixture.length; length += 1) readOrRefuse(fixture.subarray(0, length));
  const damage = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 6 });
  fc.assert(
    fc.property(damage, (places) => {
      const bytes = Uint8Array.from(fixture);
      for (const [at, value] of places) bytes[at % bytes.length] = value;
      readOrRefuse(bytes);
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('peers and networks that go on in the next message are joined', (t) => {
  const [a, b] = ['22', '33'].map((byte) => base64(key(byte))) as [string, string];
  const networks = ['10.1.0.0/24', '10.2.0.0/24', '10.3.0.0/24'] as Cidr[];
  const joined = joinWireguardDevices([
    {
      name: 'fl-wg',
      listenPort: 1,
      peers: [{ publicKey: a, keepaliveSeconds: 5, allowedIps: networks.slice(0, 1) }],
    },
    { name: 'fl-wg', peers: [{ publicKey: a, allowedIps: networks.slice(1, 2) }] },
    { name: 'fl-wg', peers: [{ publicKey: b, allowedIps: networks.slice(2) }] },
  ]);
  t.deepEqual(joined, {
    name: 'fl-wg',
    listenPort: 1,
    peers: [
      { publicKey: a, keepaliveSeconds: 5, allowedIps: networks.slice(0, 2) },
      { publicKey: b, allowedIps: networks.slice(2) },
    ],
  });
});

test('a generic message is command, version, and attributes', (t) => {
  const message = { command: 1, version: 2, attributes: Uint8Array.of(4, 0, 9, 0) };
  t.is(Buffer.from(encodeGeneric(message)).toString('hex'), '0102000004000900');
  t.deepEqual(plain(decodeGeneric(encodeGeneric(message))), plain(message));
});
