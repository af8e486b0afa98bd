import test from 'ava';
import fc from 'fast-check';
import { type Ip, ipFromBytes } from '../../../core/address.ts';
import { decodeElements } from '../../../kernel/netlink/nftables/decode-elements.ts';
import { elementEncoder } from '../../../kernel/netlink/nftables/encode-elements.ts';
import type { NftSet } from '../../../kernel/netlink/nftables/spec.ts';
import { decodeEndpoint, endpointData, packSlot, slotElement } from '../../../proxy/nftables/elements.ts';

const addresses = (bytes: number) =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((address): Ip => ipFromBytes(address));
const list = fc.record({
  id: fc.integer({ min: 1, max: 0xffff }),
  local: fc.boolean(),
  protocol: fc.constantFrom('tcp' as const, 'udp' as const, 'sctp' as const),
});

for (const [family, ip] of [
  [4, addresses(4)],
  [6, addresses(16)],
] as const) {
  const type = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
  const set: NftSet = {
    name: 'endpoints',
    key: ['classid', 'inet_proto', 'integer'],
    data: [type, 'inet_service'],
  };
  const endpoint = fc.record({ ip, port: fc.integer({ min: 1, max: 0xffff }) });
  const slot = fc.record({ list, slot: fc.nat(0xffe), endpoint });

  test(`IPv${family}: slots that are packed are the elements that they are as rows`, (t) => {
    fc.assert(
      fc.property(fc.array(slot), (slots) => {
        const packer = elementEncoder({ family: 'ip', table: 'test' }, set).packer();
        for (const each of slots) if (packer) packSlot(packer, each.list, each.slot, each.endpoint);
        const messages = packer?.takeAll().map(({ message }) => message) ?? [];
        t.deepEqual(
          decodeElements(set, messages),
          slots.map((each) => slotElement('endpoints', each.list, each.slot, endpointData(each.endpoint))),
        );
      }),
    );
  });

  test(`IPv${family}: an endpoint is read as it was written`, (t) => {
    fc.assert(fc.property(endpoint, (each) => t.deepEqual(decodeEndpoint(endpointData(each)), each)));
  });
}
