import test from 'ava';
import { ProgramKeeper, type ProgramTable } from '../../cni/program-keeper.ts';
import { WantedRows } from '../../cni/wanted.ts';
import type { Cidr } from '../../core/address.ts';

const quiet = { info: () => {}, warn: () => {}, error: () => {} };
const rows = { firewalld: [{ zone: 'trusted', source: '10.1.0.5/32' as Cidr }] };
const part = { network: 'n', containerId: 'c', ifname: 'i', type: 'firewall', rows };

function keeperOf(table: Partial<ProgramTable<'firewalld'>>, wanted: WantedRows) {
  const repair = async () => ({ writes: 0, failures: [] });
  const whole = { name: 'firewalld', isUnheard: false, hasOwn: false, repair, ...table };
  return new ProgramKeeper({ kind: 'firewalld', table: whole, wanted, log: quiet });
}

test('what nobody wants any more is no trouble', async (t) => {
  const wanted = new WantedRows();
  const keeper = keeperOf({ repair: () => Promise.reject(new Error('not now')) }, wanted);
  await keeper.look();
  t.is(keeper.trouble(), undefined, 'nothing is wanted');
  wanted.add(part);
  await keeper.look();
  t.is(keeper.trouble(), 'not now');
  wanted.remove(part);
  await keeper.look();
  t.is(keeper.trouble(), undefined);
});

test('rows are compared for those that want them, and where some of nobody are left', async (t) => {
  const wanted = new WantedRows();
  const asked: number[] = [];
  const repair: ProgramTable<'firewalld'>['repair'] = async (rowsOf) => {
    asked.push(rowsOf().size);
    return { writes: 0, failures: [] };
  };
  await keeperOf({ repair }, wanted).look();
  t.deepEqual(asked, []);
  await keeperOf({ repair, hasOwn: true }, wanted).look();
  wanted.add(part);
  const keeper = keeperOf({ repair }, wanted);
  await keeper.look();
  keeper.note();
  await keeper.look();
  t.deepEqual(asked, [0, 1], 'no more often than every few seconds');
});
