import { readFileSync } from 'node:fs';
import test from 'ava';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import { openSpace } from './kernel-space.ts';

const forward = 'net/ipv4/ip_forward';
const forward6 = 'net/ipv6/conf/all/forwarding';
const ports = 'net/ipv4/ip_local_port_range';

test('parameters are set inside the namespace and nowhere else', async (t) => {
  const space = openSpace(t);
  const outside = readFileSync(`/proc/sys/${ports}`, 'utf8');
  const table = new SysctlTable({ keys: [forward, forward6, ports], namespaceFd: space.fd });
  const before = await table.read();
  const wanted = new Map([
    [forward, before.get(forward) === '1' ? '0' : '1'],
    [forward6, '1'],
    [ports, '20000 30000'],
  ]);
  const plan = [layer(table, wanted)];
  t.deepEqual((await reconcile(plan)).failures, []);
  t.deepEqual(await table.read(), wanted);
  t.deepEqual(await reconcile(plan), { writes: 0, failures: [] });
  t.is(readFileSync(`/proc/sys/${ports}`, 'utf8'), outside);
});

test('a parameter that the kernel does not have is a failure and does not stop the others', async (t) => {
  const space = openSpace(t);
  const missing = 'net/ipv4/no_such_thing';
  const table = new SysctlTable({ keys: [missing, forward6], namespaceFd: space.fd });
  const { failures } = await reconcile([
    layer(
      table,
      new Map([
        [missing, '1'],
        [forward6, '1'],
      ]),
    ),
  ]);
  t.is(failures.length, 1);
  t.like(failures[0], { key: missing, error: { operation: `sysctl ${missing}`, code: 'ENOENT' } });
  t.deepEqual(await table.read(), new Map([[forward6, '1']]));
});

test('a refused value has the errno of the kernel', async (t) => {
  const table = new SysctlTable({ keys: [ports], namespaceFd: openSpace(t).fd });
  const [failure] = await table.write([{ kind: 'update', key: ports, wanted: 'many', actual: '' }]);
  t.like(failure?.error, { code: 'EINVAL' });
});

test('a key that is no path below /proc/sys is refused by name', (t) => {
  for (const key of [
    '',
    'ip_forward',
    '../net',
    'net/../../etc/passwd',
    '/net/ipv4/ip_forward',
    'net/ipv4/',
  ]) {
    t.throws(() => new SysctlTable({ keys: [key] }), { message: /^sysctl key "/ }, key);
  }
});
