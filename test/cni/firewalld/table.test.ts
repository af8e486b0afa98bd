import test from 'ava';
import { type FirewalldRow, FirewalldTable, firewalldKey } from '../../../cni/firewalld/table.ts';
import type { Cidr } from '../../../core/address.ts';

const row: FirewalldRow = { zone: 'trusted', source: '10.1.0.5/32' as Cidr };
const key = firewalldKey(row);

function recordOf(...known: string[]) {
  const sources = new Set(known);
  return {
    get sources() {
      return [...sources];
    },
    changeSources(added: readonly string[], removed: readonly string[]) {
      for (const one of added) sources.add(one);
      for (const one of removed) sources.delete(one);
    },
  };
}

test('without a bus there is nothing, removing has nothing to do, and making says why not', async (t) => {
  const record = recordOf(key);
  const table = new FirewalldTable({ busAddress: 'unix:path=/nowhere/bus', record });
  t.is((await table.read()).size, 0);
  t.deepEqual(await table.write([{ kind: 'delete', key, actual: row }]), []);
  t.deepEqual(record.sources, []);
  const [failure] = await table.write([{ kind: 'create', key, wanted: row }]);
  t.is(
    failure?.error.message,
    'failed to add the address 10.1.0.5/32 to trusted zone: connect ENOENT /nowhere/bus',
  );
  t.deepEqual(record.sources, []);
  t.false(await table.runs());
});

test('sources that are wanted and not there, because firewalld is not, are asked for again later', async (t) => {
  const record = recordOf(key);
  const table = new FirewalldTable({ busAddress: 'unix:path=/nowhere/bus', record });
  t.false(table.isUnheard);
  t.deepEqual(await table.repair(() => new Map([[key, row]])), { writes: 0, failures: [] });
  t.true(table.isUnheard);
  t.true(table.hasOwn);
});

test('an address of the bus that is none fails what is made, and nothing else', async (t) => {
  const table = new FirewalldTable({ busAddress: 'tcp:host=a', record: recordOf(key) });
  t.false(await table.runs());
  const [failure] = await table.write([{ kind: 'create', key, wanted: row }]);
  t.regex(failure?.error.message ?? '', /DBUS_SYSTEM_BUS_ADDRESS: "tcp:host=a" names no unix socket/);
});
