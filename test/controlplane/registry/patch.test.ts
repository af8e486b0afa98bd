import test from 'ava';
import fc from 'fast-check';
import { mergePatch, strategicMergePatch } from '../../../controlplane/registry/patch.ts';

// The cases of RFC 7386, appendix A.
const rfcCases: readonly (readonly [target: unknown, patch: unknown, result: unknown])[] = [
  [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
  [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
  [{ a: 'b' }, { a: null }, {}],
  [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
  [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
  [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
  [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
  [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
  [
    ['a', 'b'],
    ['c', 'd'],
    ['c', 'd'],
  ],
  [{ a: 'b' }, ['c'], ['c']],
  [{ a: 'foo' }, null, null],
  [{ a: 'foo' }, 'bar', 'bar'],
  [{ e: null }, { a: 1 }, { e: null, a: 1 }],
  [[1, 2], { a: 'b', c: null }, { a: 'b' }],
  [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
];

test('a merge patch does what RFC 7386 says', (t) => {
  for (const [target, patch, result] of rfcCases) t.deepEqual(mergePatch(target, patch), result);
});

test('a merge patch changes nothing in place, and again changes nothing more', (t) => {
  const values = fc.jsonValue({ maxDepth: 3 });
  const property = fc.property(values, values, (target, patch) => {
    const before = JSON.stringify(target);
    const once = mergePatch(target, patch);
    t.is(JSON.stringify(target), before);
    t.deepEqual(mergePatch(once, patch), once);
  });
  fc.assert(property, { numRuns: 200 });
});

test('a merge patch does not reach the prototype', (t) => {
  mergePatch({}, JSON.parse('{"__proto__":{"polluted":true}}'));
  t.is(({} as { polluted?: boolean }).polluted, undefined);
});

const keys = { 'spec.list': 'name', 'spec.list.inner': 'id', 'spec.set': '' };
const strategic = (target: object, patch: object) => strategicMergePatch(target, { ...patch }, keys);

test('a strategic patch joins lists by their key, also inside of lists', (t) => {
  const target = {
    spec: { list: [{ name: 'a', x: 1, inner: [{ id: 1, y: 1 }] }, { name: 'b' }], other: [1] },
  };
  const patch = {
    spec: { list: [{ name: 'c' }, { name: 'a', inner: [{ id: 1, z: 2 }, { id: 2 }] }], other: [2] },
  };
  t.deepEqual(strategic(target, patch), {
    spec: {
      list: [{ name: 'a', x: 1, inner: [{ id: 1, y: 1, z: 2 }, { id: 2 }] }, { name: 'b' }, { name: 'c' }],
      other: [2],
    },
  });
});

test('directives delete, replace and retain', (t) => {
  const target = {
    spec: { list: [{ name: 'a' }, { name: 'b', x: 1 }], set: ['u', 'v'], map: { p: 1, q: 2 } },
  };
  const is = (spec: object, expected: object) =>
    t.deepEqual(strategic(target, { spec }), { spec: { ...target.spec, ...expected } });
  is({ list: [{ name: 'a', $patch: 'delete' }] }, { list: [{ name: 'b', x: 1 }] });
  is({ list: [{ $patch: 'replace' }, { name: 'z' }] }, { list: [{ name: 'z' }] });
  is({ list: [{ name: 'b', $patch: 'replace', y: 2 }] }, { list: [{ name: 'a' }, { name: 'b', y: 2 }] });
  is({ map: { $patch: 'replace', r: 3 } }, { map: { r: 3 } });
  is({ map: { $retainKeys: ['q', 'r'], r: 3 } }, { map: { q: 2, r: 3 } });
  is({ set: ['v', 'w'] }, { set: ['u', 'v', 'w'] });
  is({ '$deleteFromPrimitiveList/set': ['u'] }, { set: ['v'] });
  is({ '$setElementOrder/list': [{ name: 'b' }, { name: 'a' }] }, {});
  t.deepEqual(strategic(target, { spec: { map: { $patch: 'delete' } } }), {
    spec: { list: target.spec.list, set: ['u', 'v'] },
  });
});

test('a list item without its key, and an unknown directive, are refused with 400', (t) => {
  t.throws(() => strategic({}, { spec: { list: [{ x: 1 }] } }), {
    message: /does not contain declared merge key: name/,
  });
  t.throws(() => strategic({}, { spec: { $patch: 'move' } }), { message: /\$patch: "move"/ });
});
