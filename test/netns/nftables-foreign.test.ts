import test from 'ava';
import { openLane } from '../../kernel/lane.ts';
import { drop, inSet, rule } from '../../kernel/netlink/nftables/expressions.ts';
import { ipSaddr } from '../../kernel/netlink/nftables/fields.ts';
import { nftKey } from '../../kernel/netlink/nftables/keys.ts';
import type { NftLayout } from '../../kernel/netlink/nftables/spec.ts';
import { ForeignChanges, NftTable, openNftSocket } from '../../kernel/nftables.ts';
import { openNftSpace } from './nftables-space.ts';

const layoutOf = (table: string): NftLayout => ({
  family: 'ip',
  table,
  chains: [{ name: 'chain', rules: [rule('blocked', inSet([ipSaddr], 'sources'), drop())] }],
  sets: [{ name: 'sources', key: [ipSaddr] }],
});

const create = (host: number) => {
  const wanted = { set: 'sources', key: nftKey([ipSaddr], `10.0.0.${host}`) };
  return [{ kind: 'create', key: `sources ${wanted.key}`, wanted }] as const;
};

test('what this process writes is no foreign change, on whatever socket and however much at a time', async (t) => {
  const { socket, fd, nft } = openNftSpace(t);
  using lane = openLane();
  using other = openNftSocket({ namespaceFd: fd, lane });
  const foreign = new ForeignChanges(socket);
  t.true(await foreign.any(), 'nothing is known before the first mark');
  const here = new NftTable({ socket, layout: layoutOf('fairlead-here') });
  const there = new NftTable({ socket: other, layout: layoutOf('fairlead-there') });
  await foreign.mark();
  t.deepEqual([await here.write(create(1)), await there.write(create(1))], [[], []]);
  t.false(await foreign.any());
  for (let host = 2; host < 100; host += 1) {
    const writing = there.write(create(host));
    t.false(await foreign.any());
    t.deepEqual(await here.write(create(host)), []);
    await writing;
  }
  t.false(await foreign.any());
  nft('add table ip someone');
  t.true(await foreign.any());
  await foreign.mark();
  t.false(await foreign.any());
  const writing = there.write(create(100));
  nft('delete table ip someone');
  await writing;
  t.true(await foreign.any());
});

test('a refused transaction is none', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const table = new NftTable({ socket, layout: layoutOf('fairlead-here') });
  await table.write(create(1));
  nft('flush set ip fairlead-here sources');
  const foreign = new ForeignChanges(socket);
  await foreign.mark();
  const [{ key, wanted }] = create(1);
  // Refused, because the element is not there; then the table is made anew.
  t.deepEqual(await table.write([{ kind: 'delete', key, actual: wanted }]), []);
  t.false(await foreign.any());
});

test('namespaces have accounts of their own', async (t) => {
  const [one, two] = [openNftSpace(t), openNftSpace(t)];
  const foreign = new ForeignChanges(one.socket);
  await foreign.mark();
  await new NftTable({ socket: two.socket, layout: layoutOf('fairlead-here') }).write(create(1));
  t.false(await foreign.any());
  one.nft('add table ip someone');
  t.true(await foreign.any());
});
