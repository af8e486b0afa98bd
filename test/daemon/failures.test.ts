import test from 'ava';
import { layer } from '../../core/rows.ts';
import { Failures, isAboutPeer, letsPodsStart, withoutRefused } from '../../daemon/failures.ts';
import { leaseOf } from './golden.ts';

const leases = new Map([1, 2, 3].map((n) => [`node-${n}`, leaseOf({ n }, 'vxlan')]));
const refusal = (table: string, key: string) =>
  ({ table, key, kind: 'create', error: new Error('EINVAL') }) as const;

test('what the kernel refuses is told with the name of the node that it is about', (t) => {
  const failures = new Failures(
    [
      refusal('route', '254 10.244.2.0/24'),
      refusal('neighbor', 'fl.1 10.244.3.0'),
      refusal('fdb', 'fl.1 02:00:00:00:04:03 192.0.2.3'),
      refusal('route', '254 10.244.9.0/24'),
    ],
    leases,
  );
  t.deepEqual(failures.texts, [
    'node-2: route 254 10.244.2.0/24: EINVAL',
    'node-3: neighbor fl.1 10.244.3.0: EINVAL',
    'node-3: fdb fl.1 02:00:00:00:04:03 192.0.2.3: EINVAL',
    'route 254 10.244.9.0/24: EINVAL',
  ]);
  t.deepEqual([...failures.leases], ['node-2', 'node-3']);
  t.true(failures.covers([refusal('neighbor', 'fl.1 10.244.3.0')]));
  t.false(failures.covers([refusal('neighbor', 'fl.1 10.244.2.0')]));
});

test('only what is this node’s own keeps it from being ready', (t) => {
  const about = (table: string, key = 'x') => isAboutPeer(refusal(table, key));
  t.true(['neighbor', 'fdb', 'route'].every((table) => about(table)));
  t.false(['link', 'address', 'nft', 'sysctl', 'tunnel'].some((table) => about(table)));
  t.true(about('wireguard', 'fl-wg AAAA='));
  t.false(about('wireguard', 'fl-wg'), 'its device');
  t.true(letsPodsStart(refusal('tunnel', 'x')));
});

test('what the kernel holds is the plan without what it refused', (t) => {
  const table = { name: 'route', same: () => true, read: async () => new Map(), write: async () => [] };
  const plan = [
    layer({ ...table, name: 'fdb' }, new Map([['a', 1]])),
    layer(
      table,
      new Map([
        ['a', 1],
        ['b', 2],
      ]),
    ),
  ];
  const held = withoutRefused(plan, [refusal('route', 'a')]);
  t.deepEqual(
    held.map(({ wanted }) => [...wanted.keys()]),
    [['a'], ['b']],
  );
  t.is(withoutRefused(plan, []), plan);
});
