import test from 'ava';
import fc from 'fast-check';
import { diff } from '../../core/diff.ts';
import type { Change } from '../../core/rows.ts';

const equal = (a: number, b: number) => a === b;
const state = fc
  .array(fc.tuple(fc.constantFrom('a', 'b', 'c', 'd', 'e'), fc.nat(2)))
  .map((rows) => new Map(rows));

function applied(changes: readonly Change<string, number>[], to: ReadonlyMap<string, number>) {
  const rows = new Map(to);
  for (const change of changes) {
    if (change.kind === 'delete') rows.delete(change.key);
    else rows.set(change.key, change.wanted);
  }
  return rows;
}

test('the changes make any state into any other', (t) => {
  fc.assert(
    fc.property(state, state, (wanted, actual) => {
      const made = applied(diff(wanted, actual, equal), actual);
      t.deepEqual([...made].toSorted(), [...wanted].toSorted());
    }),
  );
});

test('there is a change for each row that differs, and none for others', (t) => {
  fc.assert(
    fc.property(state, state, (wanted, actual) => {
      const keys = new Set([...wanted.keys(), ...actual.keys()]);
      const differing = [...keys].filter((key) => wanted.get(key) !== actual.get(key));
      const changed = diff(wanted, actual, equal).map(({ key }) => key);
      t.deepEqual(changed.toSorted(), differing.toSorted());
    }),
  );
});

test('a state that is as wanted needs no change', (t) => {
  fc.assert(fc.property(state, (rows) => t.deepEqual(diff(rows, new Map(rows), equal), [])));
});

test('changes say what they start from, in the order of the wanted rows and removals last', (t) => {
  const wanted = new Map([
    ['new', 1],
    ['kept', 2],
    ['changed', 3],
  ]);
  const actual = new Map([
    ['gone', 9],
    ['changed', 8],
    ['kept', 2],
  ]);
  t.deepEqual(diff(wanted, actual, equal), [
    { kind: 'create', key: 'new', wanted: 1 },
    { kind: 'update', key: 'changed', wanted: 3, actual: 8 },
    { kind: 'delete', key: 'gone', actual: 9 },
  ]);
});

test('what the kernel adds is no difference: the table says what is the same', (t) => {
  const roughly = (a: number, b: number) => Math.floor(a) === Math.floor(b);
  t.deepEqual(diff(new Map([['a', 1]]), new Map([['a', 1.5]]), roughly), []);
});
