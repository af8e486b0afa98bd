import test from 'ava';
import fc from 'fast-check';
import { Ipam } from '../../cni/ipam.ts';
import { Pool, releasedMax } from '../../cni/pool.ts';
import { makeRange, type RangeSet, subnetRange } from '../../cni/ranges.ts';
import type { Cidr, Ip } from '../../core/address.ts';

function setOf(...subnets: string[]): RangeSet {
  const ranges = subnets.map((subnet) => {
    const range = subnetRange(subnet as Cidr);
    if (typeof range === 'string') throw new Error(range);
    return range;
  });
  return ranges as unknown as RangeSet;
}

function allocate(ipam: Ipam, holder: string, ...sets: RangeSet[]): string {
  const given = ipam.allocate(holder, sets);
  return 'exhausted' in given ? 'exhausted' : given.map(({ ip }) => ip).join(' ');
}

test('addresses are given in ascending order, without the gateway', (t) => {
  const ipam = new Ipam();
  const set = setOf('10.1.0.0/29');
  const given = Array.from({ length: 6 }, (_, index) => allocate(ipam, `h${index}`, set));
  t.deepEqual(given, ['10.1.0.2', '10.1.0.3', '10.1.0.4', '10.1.0.5', '10.1.0.6', 'exhausted']);
});

test('one address of each family is given, or none', (t) => {
  const ipam = new Ipam();
  const [v4, v6] = [setOf('10.1.0.0/24'), setOf('fd00::/126')];
  t.is(allocate(ipam, 'a', v4, v6), '10.1.0.2 fd00::2');
  t.is(allocate(ipam, 'b', v4, v6), '10.1.0.3 fd00::3');
  t.is(allocate(ipam, 'c', v4, v6), 'exhausted');
  t.is(allocate(ipam, 'd', v4), '10.1.0.4');
});

test('a released address is given again only after all others, the one released first before the rest', (t) => {
  const ipam = new Ipam();
  const set = setOf('10.1.0.0/29');
  for (const holder of ['a', 'b', 'c']) allocate(ipam, holder, set);
  ipam.release('b');
  ipam.release('a');
  const given = Array.from({ length: 5 }, (_, index) => allocate(ipam, `n${index}`, set));
  t.deepEqual(given, ['10.1.0.5', '10.1.0.6', '10.1.0.3', '10.1.0.2', 'exhausted']);
});

test('the ranges of a set are used one after the other', (t) => {
  const ipam = new Ipam();
  const set = setOf('10.1.0.0/30', '10.2.0.0/30');
  t.deepEqual(
    ['a', 'b', 'c'].map((holder) => allocate(ipam, holder, set)),
    ['10.1.0.2', '10.2.0.2', 'exhausted'],
  );
});

test('overlapping ranges never give an address twice, and what one gives back the other may give', (t) => {
  const ipam = new Ipam();
  const wide = setOf('10.1.0.0/28');
  const narrow = [
    makeRange({ subnet: '10.1.0.0/28', rangeStart: '10.1.0.2', rangeEnd: '10.1.0.3' }),
  ] as RangeSet;
  t.is(allocate(ipam, 'a', wide), '10.1.0.2');
  t.is(allocate(ipam, 'b', narrow), '10.1.0.3');
  t.is(allocate(ipam, 'c', narrow), 'exhausted');
  t.is(allocate(ipam, 'd', wide), '10.1.0.4');
  ipam.release('a');
  t.is(allocate(ipam, 'e', narrow), '10.1.0.2');
});

test('a holder holds only once', (t) => {
  const ipam = new Ipam();
  const set = setOf('10.1.0.0/24');
  allocate(ipam, 'a', set);
  t.throws(() => ipam.allocate('a', [set]), { message: 'a is held already' });
});

test('a /64 is given without a bitmap and without growing for ever', (t) => {
  const ipam = new Ipam();
  const set = setOf('fd00::/64');
  for (let index = 0; index < releasedMax + 10; index += 1) {
    allocate(ipam, 'x', set);
    ipam.release('x');
  }
  t.is(allocate(ipam, 'y', set), 'fd00::c');
  t.is(ipam.pools()[0]?.state.released.length, releasedMax - 1);
});

test('a pool made from its state goes on as the pool itself', (t) => {
  const set = setOf('10.1.0.0/28');
  const step = fc.record({ take: fc.boolean(), which: fc.nat(20) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const pool = new Pool(set);
      const held: Ip[] = [];
      const isHeld = (ip: Ip) => held.includes(ip);
      for (const { take, which } of steps) {
        const again = new Pool(set, pool.state());
        const [picked, pickedAgain] = [pool.pick(isHeld), again.pick(isHeld)];
        t.deepEqual(pickedAgain?.ip, picked?.ip);
        if (take && picked !== undefined) {
          pool.take(picked.ip);
          held.push(picked.ip);
        }
        if (!take && held.length > 0) pool.release(held.splice(which % held.length, 1)[0] as Ip);
      }
    }),
  );
});

test('whatever is given and taken back: no address twice, none lost', (t) => {
  const sets = [
    setOf('10.1.0.0/28'),
    [makeRange({ subnet: '10.1.0.0/28', rangeStart: '10.1.0.4', rangeEnd: '10.1.0.9' })] as RangeSet,
    setOf('fd00::/124'),
  ];
  const step = fc.record({ holder: fc.nat(30), set: fc.constantFrom(...sets), release: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const ipam = new Ipam();
      const held = new Map<string, string>();
      for (const { holder, set, release } of steps) {
        const name = `h${holder}`;
        if (release || held.has(name)) {
          ipam.release(name);
          held.delete(name);
          continue;
        }
        const given = allocate(ipam, name, set);
        if (given === 'exhausted') continue;
        t.false([...held.values()].includes(given));
        held.set(name, given);
      }
      for (const name of held.keys()) ipam.release(name);
      const all = new Set(
        Array.from({ length: 13 }, (_, index) => allocate(ipam, `all${index}`, sets[0] as RangeSet)),
      );
      t.is(all.size, 13);
      t.false(all.has('exhausted'));
    }),
  );
});
