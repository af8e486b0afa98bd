import test from 'ava';
import type { BridgeWish } from '../../cni/bridge.ts';
import { Bridges, type Need } from '../../cni/bridges.ts';
import type { HostCidr } from '../../core/address.ts';

const [one, two] = ['10.1.0.1/24', '10.2.0.1/24'] as HostCidr[] as [HostCidr, HostCidr];
const link = { index: 7, name: 'cni0', flags: 1, mtuBytes: 1500, alias: 'fairlead bridge' };
const need = (...gateways: HostCidr[]): Need => ({ bridge: 'cni0', gateways });

function setUp({ used = [] as Need[] } = {}) {
  const wishes: BridgeWish[] = [];
  const state = { refuse: undefined as Error | undefined, writes: 1 };
  const bridges = new Bridges({
    make: async (wish) => {
      wishes.push(wish);
      await Promise.resolve();
      if (state.refuse !== undefined) throw state.refuse;
      return { link, writes: state.writes };
    },
    makeGateway: async () => {},
    needsOf: () => used,
  });
  return { bridges, wishes, state, used };
}

test('a bridge is made once for all that need it at the same time, and is known then', async (t) => {
  const { bridges, wishes } = setUp();
  const [first, second] = [bridges.ensure(need(one)), bridges.ensure(need(one))];
  await Promise.all([first, second]);
  t.is(bridges.ensure(need(one)), true);
  t.is(wishes.length, 1);
});

test('another gateway is added, those of pods that are there stay', async (t) => {
  const { bridges, wishes } = setUp({ used: [need('10.9.0.1/24' as HostCidr)] });
  await bridges.ensure(need(one));
  await bridges.ensure(need(two));
  t.deepEqual(wishes.at(-1)?.gateways, ['10.9.0.1/24' as HostCidr, one, two]);
});

test('what could not be is not wanted by the next', async (t) => {
  const { bridges, wishes, state } = setUp();
  await bridges.ensure(need(one));
  state.refuse = new Error('conflict');
  await t.throwsAsync(async () => bridges.ensure(need(two)), { message: 'conflict' });
  state.refuse = undefined;
  await bridges.ensure(need(one));
  t.deepEqual(wishes.at(-1)?.gateways, [one]);
  t.is(bridges.ensure(need(one)), true);
});

test('the MTU is the least that pods have and the node says; a changed one is followed', async (t) => {
  const { bridges, wishes, used } = setUp();
  const mtu = (mtuBytes: number) => ({ ...need(one), mtuBytes });
  const last = () => wishes.at(-1)?.mtuBytes;
  await bridges.keep(mtu(1500));
  t.is(last(), 1500);
  await Promise.all([bridges.ensure(mtu(1450)), bridges.ensure(mtu(1450)), bridges.ensure(mtu(1450))]);
  t.is(last(), 1450);
  t.is(wishes.length, 2, 'once for all');
  t.is(bridges.ensure(mtu(1500)), true, 'a pod with a greater one changes nothing');
  used.push(mtu(1500));
  await bridges.keep(mtu(1400));
  t.is(last(), 1400);
  await bridges.keep(mtu(9000));
  t.is(last(), 1450);
});

test('a bridge that turned out to be gone is made again', async (t) => {
  const { bridges, wishes } = setUp();
  await bridges.ensure(need(one));
  bridges.forget('cni0');
  await bridges.ensure(need(one));
  t.is(wishes.length, 2);
});

test('only what is not as it was made is unsound', async (t) => {
  const { bridges } = setUp({ used: [need(one)] });
  await bridges.ensure(need(one));
  const seen = { link, addresses: [one] };
  t.true(bridges.isSound('cni0', seen));
  t.true(bridges.isSound('cni0', { ...seen, addresses: [one, two] }));
  t.false(bridges.isSound('cni0', { ...seen, addresses: [two] }));
  t.false(bridges.isSound('cni0', { ...seen, link: { ...link, flags: 0 } }));
  t.false(bridges.isSound('cni0', { ...seen, link: { ...link, index: 8 } }));
  t.false(bridges.isSound('cni0', { ...seen, link: undefined }));
  t.is(bridges.isSound('other', seen), undefined);
});

test('while a bridge is being made nobody looks at it', async (t) => {
  const { bridges } = setUp({ used: [need(one)] });
  const making = bridges.ensure(need(one));
  t.is(bridges.isSound('cni0', { link: undefined, addresses: [] }), undefined);
  await making;
});

test('a repair tells how many rows it wrote; foreign addresses are never its matter', async (t) => {
  const { bridges, wishes, state } = setUp({ used: [need(one)] });
  await bridges.ensure({ ...need(one), addressConflict: 'refuse' });
  state.writes = 3;
  t.is(await bridges.repair('cni0'), 3);
  t.deepEqual(
    wishes.map(({ addressConflict }) => addressConflict),
    ['refuse', 'keep'],
  );
  t.is(await bridges.repair('unknown'), 0);
});

test("the node's own bridge is kept, whoever else is on it", async (t) => {
  const { bridges, wishes } = setUp();
  await bridges.keep({ ...need(one), mtuBytes: 1450 });
  await bridges.repair('cni0');
  t.deepEqual(
    wishes.map(({ gateways, mtuBytes }) => `${gateways} ${mtuBytes}`),
    [`${one} 1450`, `${one} 1450`],
  );
});
