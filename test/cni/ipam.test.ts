import { execFileSync } from 'node:child_process';
import test from 'ava';
import fc from 'fast-check';
import { assignRequested, Ipam, monotonicMs, poolsMax } from '../../cni/ipam.ts';
import { defaultCoolDownMs, Pool, poolStateAfter, releasedMax } from '../../cni/pool.ts';
import { makeRange, type RangeSet, subnetRange } from '../../cni/ranges.ts';
import { refusalError } from '../../cni/refusal.ts';
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
  const given = ipam.grant(holder, sets);
  return 'kind' in given ? given.kind : given.map(({ ip }) => ip).join(' ');
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
  t.is(allocate(ipam, 'a', set), 'duplicate');
  t.throws(() => ipam.hold('a', ['10.9.0.1' as Ip]), { message: 'a is held already' });
});

test('a /64 is given without a bitmap and without growing for ever: what has rested is used before new ones', (t) => {
  let nowMs = 0;
  const ipam = new Ipam({ nowMs: () => nowMs });
  const set = setOf('fd00::/64');
  for (let index = 0; index < releasedMax + 10; index += 1) {
    allocate(ipam, 'x', set);
    ipam.release('x');
  }
  t.is(allocate(ipam, 'y', set), 'fd00::1:c', 'nothing has rested yet');
  nowMs = defaultCoolDownMs;
  t.is(allocate(ipam, 'z', set), 'fd00::2');
  t.is(ipam.pools()[0]?.state.released.length, releasedMax + 9);
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
        const options = { isHeld, nowMs: 0, coolDownMs: 0 };
        const [picked, pickedAgain] = [pool.pick(options), again.pick(options)];
        t.deepEqual(pickedAgain?.ip, picked?.ip);
        if (take && picked !== undefined) {
          pool.take(picked.ip);
          held.push(picked.ip);
        }
        if (!take && held.length > 0) pool.release(held.splice(which % held.length, 1)[0] as Ip, 0);
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

/** Everything by looking at everything: what a set gives next, and when each address was released. */
class NaiveIpam {
  readonly held = new Map<string, string[]>();
  readonly released = new Map<string, number>();
  /** Of each set, in the order in which they are given the first time. */
  readonly #all: readonly string[][];
  #clock = 0;

  constructor(all: readonly string[][]) {
    this.#all = all;
  }

  allocate(holder: string, sets: readonly number[]): string {
    const taken = new Set([...this.held.values()].flat());
    const given: string[] = [];
    for (const set of sets) {
      const free = (this.#all[set] ?? []).filter((ip) => !taken.has(ip));
      const [next] = free.sort((a, b) => (this.released.get(a) ?? -1) - (this.released.get(b) ?? -1));
      if (next === undefined) return 'exhausted';
      given.push(next);
    }
    this.held.set(holder, given);
    return given.join(' ');
  }

  release(holder: string): void {
    for (const ip of this.held.get(holder) ?? []) this.released.set(ip, this.#clock++);
    this.held.delete(holder);
  }
}

test('addresses are given as a model gives them that looks at all of them each time', (t) => {
  const v4 = setOf('10.1.0.0/29', '10.1.1.0/29');
  const v6 = setOf('fd00::/125');
  const all = [
    [2, 3, 4, 5, 6].map((n) => `10.1.0.${n}`).concat([2, 3, 4, 5, 6].map((n) => `10.1.1.${n}`)),
    [2, 3, 4, 5, 6, 7].map((n) => `fd00::${n}`),
  ];
  const step = fc.record({ holder: fc.nat(12), release: fc.boolean(), both: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const [ipam, naive] = [new Ipam(), new NaiveIpam(all)];
      for (const { holder, release, both } of steps) {
        const name = `h${holder}`;
        if (release || naive.held.has(name)) {
          ipam.release(name);
          naive.release(name);
        } else {
          const given = allocate(ipam, name, ...(both ? [v4, v6] : [v4]));
          t.is(given, naive.allocate(name, both ? [0, 1] : [0]));
        }
      }
    }),
  );
});

test('each asked-for address goes to a set of its own, the rest of the sets give the next', (t) => {
  const ipam = new Ipam();
  const [a, b, v6] = [setOf('10.1.0.0/24'), setOf('10.2.0.0/24'), setOf('fd00::/64')];
  const given = ipam.grant('h', [a, b, v6], ['fd00::9', '10.2.0.7'] as Ip[]);
  t.deepEqual('kind' in given ? given : given.map(({ ip }) => ip), ['10.1.0.2', '10.2.0.7', 'fd00::9']);
  t.deepEqual(assignRequested([a, v6], ['10.1.0.5', '10.1.0.6', '10.9.0.1'] as Ip[]), {
    wishes: ['10.1.0.5' as Ip, undefined],
    left: ['10.1.0.6', '10.9.0.1'] as Ip[],
  });
});

test('what cannot be given is told in the words of host-local, and nothing is given', (t) => {
  const ipam = new Ipam();
  const sets = [setOf('10.1.0.0/30'), setOf('fd00::/64')];
  const refusal = (holder: string, ...requested: string[]) => {
    const given = ipam.grant(holder, sets, requested as Ip[]);
    if (!('kind' in given)) return 'given';
    const { code, message } = refusalError(given, 'box');
    return `${code} ${message}`;
  };
  t.is(
    refusal('a', '10.1.0.1'),
    "7 failed to allocate for range 0: requested ip 10.1.0.1 is subnet's gateway",
  );
  t.is(
    refusal('a', '10.1.0.2', 'fd00::5', '10.9.0.1', '10.1.0.2'),
    '7 failed to allocate all requested IPs: 10.9.0.1',
  );
  t.deepEqual([...ipam.holders()], []);
  t.is(refusal('a', '10.1.0.2', 'fd00::5'), 'given');
  t.is(
    refusal('b', '10.1.0.2'),
    '11 failed to allocate for range 0: requested IP address 10.1.0.2 is not available in range set 10.1.0.1-10.1.0.2',
  );
  t.is(
    refusal('b'),
    '11 failed to allocate for range 0: no IP addresses available in range set: 10.1.0.1-10.1.0.2',
  );
  t.is(
    refusal('a'),
    '7 failed to allocate for range 0: 10.1.0.2 has been allocated to box, duplicate allocation is not allowed',
  );
  t.deepEqual([...ipam.holders()], ['a']);
});

test('an asked-for address before and behind the cursor is given once', (t) => {
  const ipam = new Ipam();
  const set = setOf('10.1.0.0/29');
  ipam.grant('a', [set], ['10.1.0.3'] as Ip[]);
  t.is(allocate(ipam, 'b', set), '10.1.0.2');
  t.is(allocate(ipam, 'c', set), '10.1.0.4');
  ipam.release('a');
  ipam.grant('d', [set], ['10.1.0.3'] as Ip[]);
  t.is(allocate(ipam, 'e', set), '10.1.0.5');
  t.is(allocate(ipam, 'f', set), '10.1.0.6');
  t.is(allocate(ipam, 'g', set), 'exhausted');
});

test('a released address rests in a pool that begins only after its release', (t) => {
  let nowMs = 0;
  const ipam = new Ipam({ nowMs: () => nowMs });
  const narrow = [
    makeRange({ subnet: '10.1.0.0/24', rangeStart: '10.1.0.2', rangeEnd: '10.1.0.4' }),
  ] as RangeSet;
  allocate(ipam, 'a', setOf('10.1.0.0/24'));
  ipam.release('a');
  t.is(allocate(ipam, 'b', narrow), '10.1.0.3');
  nowMs = defaultCoolDownMs;
  ipam.release('b');
  t.is(allocate(ipam, 'c', setOf('10.1.0.0/28')), '10.1.0.2', 'this one has rested');
  t.is(allocate(ipam, 'd', setOf('10.1.0.0/28')), '10.1.0.4', 'the one before has not');
});

test('what rests goes on resting in the next process, and is given when nothing else is left', (t) => {
  let nowMs = 1_000_000;
  const options = { nowMs: () => nowMs };
  const before = new Ipam(options);
  const set = setOf('10.1.0.0/30', '10.2.0.0/30');
  allocate(before, 'a', set);
  before.release('a');
  const after = new Ipam(options);
  for (const pool of before.pools()) after.openPool(pool.set, pool.state);
  nowMs += 10;
  t.is(allocate(after, 'b', setOf('10.1.0.0/29')), '10.1.0.3');
  t.is(allocate(after, 'c', set), '10.2.0.2');
  t.is(after.earlyReuses, 0);
  t.is(allocate(after, 'd', set), '10.1.0.2');
  t.is(after.earlyReuses, 1);
});

test('a pool that others used a long time ago is forgotten before the one that is in use', (t) => {
  const ipam = new Ipam();
  const main = setOf('10.1.0.0/24');
  for (let index = 0; index < poolsMax * 2; index += 1) {
    allocate(ipam, `m${index}`, main);
    allocate(ipam, `o${index}`, setOf(`10.2.${index}.0/24`));
  }
  t.true(ipam.hasPool(main));
  t.is(ipam.pools().length, poolsMax);
});

test('a pool goes on behind the last address that another program gave', (t) => {
  const set = setOf('10.1.0.0/29', '10.2.0.0/30');
  const order = (last: string) => {
    const ipam = new Ipam();
    ipam.openPool(set, poolStateAfter(set, last as Ip));
    return Array.from({ length: 7 }, (_, index) => allocate(ipam, `h${index}`, set));
  };
  const [a, b, c, d, e, f] = ['10.1.0.2', '10.1.0.3', '10.1.0.4', '10.1.0.5', '10.1.0.6', '10.2.0.2'];
  t.deepEqual(order('10.1.0.4'), [d, e, f, a, b, c, 'exhausted']);
  t.deepEqual(order('10.1.0.6'), [f, a, b, c, d, e, 'exhausted']);
  t.deepEqual(order('10.2.0.2'), [a, b, c, d, e, f, 'exhausted']);
  t.deepEqual(order('10.9.0.1'), [a, b, c, d, e, f, 'exhausted']);
  t.is(poolStateAfter(setOf('fd00::/64'), 'fd00::ffff:ffff' as Ip), undefined, 'too far in');
});

test('with 65,000 leases an address is given and taken back as fast as with 1,000', (t) => {
  const costNs = (leases: number) => {
    const ipam = new Ipam();
    const sets = [setOf('10.0.0.0/16')];
    for (let index = 0; index < leases; index += 1) ipam.grant(`h${index}`, sets);
    const rounds = Array.from({ length: 5 }, () => {
      const since = process.hrtime.bigint();
      for (let index = 0; index < 1000; index += 1) {
        const holder = `h${(index * 7919) % leases}`;
        ipam.release(holder);
        ipam.grant(holder, sets);
      }
      return Number(process.hrtime.bigint() - since) / 1000;
    });
    return Math.min(...rounds);
  };
  const [few, many] = [costNs(1000), costNs(65_000)];
  t.log(`release and grant: ${few.toFixed()} ns with 1,000 leases, ${many.toFixed()} ns with 65,000`);
  t.true(many < 10 * few + 20_000);
});

test('all processes have one clock of releases', (t) => {
  const before = monotonicMs();
  const module = new URL('../../cni/ipam.ts', import.meta.url).href;
  const script = `import('${module}').then(({ monotonicMs }) => console.log(monotonicMs()))`;
  const other = Number(execFileSync(process.execPath, ['-e', script], { encoding: 'utf8' }));
  t.true(before <= other && other <= monotonicMs());
});
