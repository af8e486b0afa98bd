import test from 'ava';
import type { Cidr } from '../../core/address.ts';
import * as st from '../../kernel/netlink/nftables/expressions.ts';
import {
  ipDaddr,
  ipSaddr,
  metaL4proto,
  metaMark,
  metaOifname,
  metaPriority,
  numgenRandom,
  thDport,
} from '../../kernel/netlink/nftables/fields.ts';
import { bytesOfHex, hexOf, nftKey, nftRange } from '../../kernel/netlink/nftables/keys.ts';
import { commentUserdata, setUserdata } from '../../kernel/netlink/nftables/userdata.ts';

test('each part of a concatenation is filled up to four bytes', (t) => {
  t.is(nftKey([ipDaddr, metaL4proto, thDport], '10.96.0.1', 6, 443), '0a600001' + '06000000' + '01bb0000');
  t.is(nftKey(['ipv6_addr', 'inet_service'], 'fd00::1', 53), 'fd000000000000000000000000000001' + '00350000');
});

test('a single value is not filled up', (t) => {
  t.is(nftKey([thDport], 443), '01bb');
  t.is(nftKey(['inet_proto'], 17), '11');
  t.is(nftKey([metaOifname], 'eth0'), '65746830'.padEnd(32, '0'));
});

test('marks, priorities and random numbers are in host order', (t) => {
  t.is(nftKey([metaPriority, numgenRandom(65536)], 0x18003, 258), '03800100' + '02010000');
  t.is(nftKey([metaMark], 0xfffffffe), 'feffffff');
});

test('values that do not fit are refused by type and value', (t) => {
  t.throws(() => nftKey([thDport], 65536), {
    message: 'nftables value of type inet_service: "65536" does not fit',
  });
  t.throws(() => nftKey([ipDaddr], 'fd00::1'), { message: /type ipv4_addr: "fd00::1"/ });
  t.throws(() => nftKey([metaL4proto], -1), { message: /type inet_proto: "-1"/ });
  t.throws(() => nftKey([metaMark], 1.5), { message: /type mark: "1.5"/ });
  t.throws(() => nftKey([metaOifname], 'a-name-too-long-x'), { message: /type ifname/ });
  t.throws(() => nftKey([thDport], '80'), { message: /type inet_service: "80"/ });
  t.throws(() => nftKey([ipDaddr, thDport], '10.0.0.1'), { message: /key of 2 parts: 1 values/ });
});

test('hex goes both ways, in either case', (t) => {
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
  t.deepEqual(bytesOfHex(hexOf(bytes)), bytes);
  t.deepEqual(bytesOfHex(hexOf(bytes).toUpperCase()), bytes);
});

test('a network is the range from its first to its last address', (t) => {
  const range = (cidr: string) => nftRange(cidr as Cidr);
  t.deepEqual(range('10.244.0.0/22'), { key: '0af40000', keyEnd: '0af403ff' });
  t.deepEqual(range('0.0.0.0/0'), { key: '00000000', keyEnd: 'ffffffff' });
  t.deepEqual(range('10.0.0.1/32'), { key: '0a000001', keyEnd: '0a000001' });
  t.deepEqual(range('fd00::/57'), {
    key: 'fd00'.padEnd(32, '0'),
    keyEnd: 'fd0000000000007f'.padEnd(32, 'f'),
  });
});

test('what has no order in the kernel’s bytes cannot be compared by order', (t) => {
  t.throws(() => st.match(metaMark, '>=', 5), { message: 'values of type mark can only be equal or not' });
  t.throws(() => st.matchRange(metaPriority, 1, 5), { message: /type classid/ });
  t.throws(() => st.matchCidr(ipSaddr, '==', 'fd00::/8' as Cidr), { message: /fd00::\/8: not a ipv4_addr/ });
});

test('comments and keys that nft could not read again are refused', (t) => {
  t.throws(() => commentUserdata('x'.repeat(128)), { message: /at most 127 bytes/ });
  t.throws(() => commentUserdata('say "no"'), { message: /no quotation marks/ });
  t.throws(() => setUserdata({ name: 'long', key: Array(13).fill(ipSaddr) }), {
    message: /the limit is 255/,
  });
});
