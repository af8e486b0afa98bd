import test from 'ava';
import fc from 'fast-check';
import type { Ip } from '../../../core/address.ts';
import { decodeGeneric } from '../../../kernel/netlink/generic.ts';
import {
  decodeIpvsDestination,
  decodeIpvsService,
  decodeIpvsTimeouts,
  encodeIpvsAddress,
  encodeIpvsDestination,
  encodeIpvsService,
  encodeIpvsTimeouts,
  type IpvsService,
} from '../../../kernel/netlink/generic-ipvs.ts';
import { MalformedMessageError, Writer } from '../../../kernel/netlink/wire.ts';
import { ip } from '../../core/arbitrary.ts';
import { plain } from './golden.ts';

/** As Linux 6.1 answered a dump of three servers and of one destination; the counters, all zero, are left out here. */
const bytesOf = (hex: string) => decodeGeneric(Buffer.from(hex.replaceAll(/\s/g, ''), 'hex')).attributes;
const serviceStatistics =
  '5c000a00 0800010000000000 0800020000000000 0800030000000000 0c0004000000000000000000 0c0005000000000000000000' +
  '0800060000000000 0800070000000000 0800080000000000 0800090000000000 08000a0000000000';
const statistics64 = `7c000c00${Array.from({ length: 10 }, (_, index) => `0c00${(index + 1).toString(16).padStart(2, '0')}000000000000000000`).join('')}`;
const service = (own: string) => bytesOf(`01010000 2c010100 ${own} ${serviceStatistics} ${statistics64}`);

const web = service(
  '0600010002000000 0600020006000000 140003000a60000a000000000000000000000000 0600040000500000' +
    '0700060072720000 0c00070002000046ffffffff 0800080000000000 08000900ffffffff',
);
const dns = service(
  '060001000a000000 0600020011000000 14000300fd00001000960000000000000000000a 0600040000350000' +
    '08000600776c6300 0c00070003000046ffffffff 08000800302a0000 0800090080000000',
);
const hashed = service(
  '0600010002000000 0600020084000000 140003000a60000a000000000000000000000000 0600040000500000' +
    '070006006d680000 0c0007000a000046ffffffff 0800080000000000 08000900ffffffff',
);
const destination = bytesOf(
  `05010000 50010200 14000100fd000010024400010000000000000005 0600020014e90000 0800030000000000
   0800040064000000 05000d0000000000 06000e0000000000 06000f0000000000 0800050000000000 0800060000000000
   0800070000000000 0800080000000000 0800090000000000 06000b000a000000 ${serviceStatistics} ${statistics64}`,
);
const timeouts = bytesOf('0c010000 0800040084030000 0800050078000000 080006002c010000');

const at = (text: string) => text as Ip;

test('services of a real kernel are read', (t) => {
  t.deepEqual([web, dns, hashed].map(decodeIpvsService), [
    {
      protocol: 6,
      ip: at('10.96.0.10'),
      port: 80,
      scheduler: 'rr',
      flags: 0x46000002,
      timeoutSeconds: 0,
      prefixLength: 32,
    },
    {
      protocol: 17,
      ip: at('fd00:10:96::a'),
      port: 53,
      scheduler: 'wlc',
      flags: 0x46000003,
      timeoutSeconds: 10_800,
      prefixLength: 128,
    },
    {
      protocol: 132,
      ip: at('10.96.0.10'),
      port: 80,
      scheduler: 'mh',
      flags: 0x4600000a,
      timeoutSeconds: 0,
      prefixLength: 32,
    },
  ]);
});

test('destinations and timeouts of a real kernel are read', (t) => {
  t.deepEqual(decodeIpvsDestination(destination, 6), {
    ip: at('fd00:10:244:1::5'),
    port: 5353,
    weight: 100,
    method: 0,
    activeConnections: 0,
    inactiveConnections: 0,
    persistentConnections: 0,
  });
  t.deepEqual(decodeIpvsTimeouts(timeouts), { tcpSeconds: 900, tcpFinSeconds: 120, udpSeconds: 300 });
});

test('what is written is what the kernel gives back, less its counters', (t) => {
  for (const bytes of [web, dns, hashed]) {
    const read = decodeIpvsService(bytes) as IpvsService;
    const written = encodeIpvsService(read);
    // The kernel’s own length counts its counters in, and it has no flag for nested attributes.
    const own = Buffer.from(bytes).subarray(4, written.length);
    t.is(Buffer.from(written).subarray(4).toString('hex'), own.toString('hex'));
  }
  t.is(
    Buffer.from(encodeIpvsTimeouts(decodeIpvsTimeouts(timeouts))).toString('hex'),
    Buffer.from(timeouts).toString('hex'),
  );
});

test('a server by firewall mark is told from the others', (t) => {
  const bytes = new Writer().nest(1, (writer) => writer.attrU16(1, 2).attrU32(5, 7)).finish();
  t.deepEqual(decodeIpvsService(bytes), { mark: 7 });
});

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const address = fc.record({ protocol: fc.constantFrom(6, 17, 132), ip, port: u16 });
const anyService = fc
  .record({
    address,
    scheduler: fc.stringMatching(/^[a-z]{1,15}$/),
    flags: u32,
    timeoutSeconds: u32,
    v4: fc.integer({ min: 0, max: 32 }),
    v6: fc.integer({ min: 1, max: 128 }),
  })
  .map(
    ({ address: its, v4, v6, ...rest }): IpvsService => ({
      ...its,
      ...rest,
      prefixLength: its.ip.includes(':') ? v6 : v4,
    }),
  );

test('every service that is written is read back', (t) => {
  fc.assert(
    fc.property(anyService, (written) => {
      t.deepEqual(decodeIpvsService(encodeIpvsService(written)), written);
    }),
  );
});

test('every destination that is written is read back', (t) => {
  const row = fc.record({ ip, port: u16, weight: u32, method: fc.constantFrom(0, 2, 3) });
  fc.assert(
    fc.property(address, row, (server, written) => {
      const bytes = encodeIpvsDestination(server, written);
      t.deepEqual(plain(decodeIpvsDestination(bytes, 4)), written);
      const own = Buffer.from(encodeIpvsAddress(server)).toString('hex');
      t.true(Buffer.from(bytes).toString('hex').startsWith(own));
    }),
  );
});

test('bytes that are cut or missing are refused, never misread', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(web, dns, destination, timeouts),
      fc.nat(),
      fc.nat(255),
      (bytes, place, value) => {
        const spoiled = Uint8Array.from(bytes);
        spoiled[place % spoiled.length] = value;
        for (const some of [spoiled, bytes.subarray(0, place % bytes.length)]) {
          for (const read of [
            decodeIpvsService,
            (all: Uint8Array) => decodeIpvsDestination(all, 4),
            decodeIpvsTimeouts,
          ]) {
            try {
              read(some);
            } catch (error) {
              t.true(error instanceof MalformedMessageError, String(error));
            }
          }
        }
      },
    ),
  );
  t.pass();
});
