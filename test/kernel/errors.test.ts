import test from 'ava';
import { errnoName, isMissing, KernelError } from '../../kernel/errors.ts';

test('errno numbers have the names of libc', (t) => {
  t.deepEqual([1, 17, 19, 95, 11, 105].map(errnoName), [
    'EPERM',
    'EEXIST',
    'ENODEV',
    'EOPNOTSUPP',
    'EAGAIN',
    'ENOBUFS',
  ]);
});

test('an errno without a name keeps its number', (t) => {
  t.is(errnoName(524), 'errno 524');
  t.is(new KernelError('RTM_NEWLINK x', 524).message, 'RTM_NEWLINK x: errno 524');
});

test('what is gone is told from what is refused', (t) => {
  for (const errno of [2, 3, 19, 99]) t.true(isMissing(new KernelError('x', errno)));
  for (const errno of [1, 16, 17, 22]) t.false(isMissing(new KernelError('x', errno)));
  t.false(isMissing(new Error('ENOENT')));
});

test('errors of system calls become kernel errors, others stay what they are', (t) => {
  const system = Object.assign(new Error('EACCES: openat'), { errno: -13, code: 'EACCES' });
  t.like(KernelError.from('open x', system), { operation: 'open x', code: 'EACCES', errno: 13 });
  const bug = new TypeError('x is not a function');
  t.is(KernelError.from('open x', bug), bug);
  const known = new KernelError('first', 1);
  t.is(KernelError.from('second', known), known);
});
