import test from 'ava';
import type { Cidr } from '../../core/address.ts';
import { type RuleRow, RuleTable, ruleKey } from '../../kernel/rule.ts';
import { make, openSpace, settle } from './kernel-space.ts';

const fromPods: RuleRow = { family: 4, priority: 100, table: 1000, from: '10.244.0.0/16' as Cidr };
const marked: RuleRow = { family: 4, priority: 101, table: 77, fwmark: 0x4000, fwmask: 0x4000 };
const rows: readonly RuleRow[] = [
  fromPods,
  marked,
  { family: 4, priority: 101, table: 77, fwmark: 0x1 },
  { family: 4, priority: 102, table: 254, to: '192.0.2.1/32' as Cidr },
  { family: 4, priority: 103, table: 255 },
  { family: 6, priority: 100, table: 1000, from: 'fd00:244::/32' as Cidr, to: 'fd01::/16' as Cidr },
  { family: 6, priority: 101, table: 77, fwmark: 0x4000, fwmask: 0xff00 },
];

test('rules of both families are added and removed', async (t) => {
  const space = openSpace(t);
  const table = new RuleTable(space);
  t.is(await settle(t, table, ruleKey, rows), rows.length);
  t.like(space.show('rule show priority 100')[0], { src: '10.244.0.0', srclen: 16, table: '1000' });
  t.like(space.show('-6 rule show priority 101')[0], { fwmark: '0x4000', fwmask: '0xff00', table: '77' });
  t.is(await settle(t, table, ruleKey, rows.slice(2)), 2);
  t.is(await settle(t, table, ruleKey, rows.slice(0, 3)), 6);
  t.is(await settle(t, table, ruleKey, []), 3);
});

test('rules of others are neither read nor removed, also when they say the same', async (t) => {
  const space = openSpace(t);
  space.ip(`
    rule add from 10.244.0.0/16 table 1000 priority 100
    rule add iif lo blackhole priority 5 protocol 88
    -6 rule add fwmark 0x4000 table 77 priority 101`);
  const before = [...space.show('rule show'), ...space.show('-6 rule show')];
  const table = new RuleTable(space);
  t.deepEqual(await table.read(), new Map());
  await settle(t, table, ruleKey, [marked]);
  await settle(t, table, ruleKey, []);
  await settle(t, table, ruleKey, [fromPods]);
  await settle(t, table, ruleKey, []);
  t.deepEqual(await table.write([{ kind: 'delete', key: ruleKey(fromPods), actual: fromPods }]), []);
  t.deepEqual([...space.show('rule show'), ...space.show('-6 rule show')], before);
});

test('removing what is gone and making what is there are no failures', async (t) => {
  const space = openSpace(t);
  const table = new RuleTable(space);
  await settle(t, table, ruleKey, [fromPods]);
  t.deepEqual(await table.write([{ kind: 'create', key: ruleKey(fromPods), wanted: fromPods }]), []);
  t.deepEqual(await table.write([{ kind: 'delete', key: ruleKey(marked), actual: marked }]), []);
  t.is((await table.read()).size, 1);
});

test('a refused rule does not stop the others', async (t) => {
  const space = openSpace(t);
  const bad: RuleRow = { family: 6, priority: 9, table: 1000, from: '10.0.0.0/8' as Cidr };
  const { failures } = await make(new RuleTable(space), ruleKey, [bad, fromPods]);
  t.is(failures.length, 1);
  t.is(space.show('rule show priority 100').length, 1);
});
