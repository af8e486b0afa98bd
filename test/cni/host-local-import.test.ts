import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { findAddressLease } from '../../cni/address-leases.ts';
import { FieldReader, foldKeys } from '../../cni/fields.ts';
import { HostLocalImport, type ImportReport, planImport } from '../../cni/host-local-import.ts';
import type { RangeSet } from '../../cni/ranges.ts';
import { readRangeSets } from '../../cni/ranges.ts';
import { MemoryLeases } from './memory-leases.ts';

const id = (containerId: string, ifname = 'eth0') => ({ network: 'cbr0', containerId, ifname });

test("a file's name is the address, its content the container and the interface", (t) => {
  const files = [
    { name: '10.1.0.2', content: 'a\r\neth0' },
    { name: 'fd00::2', content: 'a\r\neth0\n' },
    { name: '10.1.0.3', content: '  b ' },
    { name: '10.1.0.4', content: '' },
    { name: '10.1.0.5', content: '../x\r\neth0' },
    { name: 'last_reserved_ip.0', content: '10.1.0.4' },
    { name: 'last_reserved_ip.1', content: 'nonsense' },
    { name: 'lock', content: '' },
  ];
  const plan = planImport('cbr0', files, () => undefined);
  t.deepEqual(plan.leases as unknown, [
    { ...id('a'), addresses: ['10.1.0.2', 'fd00::2'], files: ['10.1.0.2', 'fd00::2'] },
    { ...id('b', ''), addresses: ['10.1.0.3'], files: ['10.1.0.3'] },
    { ...id('', ''), addresses: ['10.1.0.4', '10.1.0.5'], files: ['10.1.0.4', '10.1.0.5'] },
  ]);
  t.deepEqual([...plan.last] as unknown, [[0, '10.1.0.4']]);
});

test('what the same attachment holds already is done, what another holds is refused', (t) => {
  const files = [
    { name: '10.1.0.2', content: 'a\r\neth0' },
    { name: '10.1.0.3', content: 'b\r\neth0' },
  ];
  const plan = planImport('cbr0', files, () => 'cbr0/a/eth0');
  t.deepEqual(plan.leases, []);
  t.deepEqual(plan.done, ['10.1.0.2']);
  t.deepEqual(plan.refused, ['10.1.0.3: held by cbr0/a/eth0, not by cbr0/b/eth0']);
});

function folder(t: ExecutionContext, files: Readonly<Record<string, string>>) {
  const dataDir = mkdtempSync('/tmp/fairlead-test-');
  t.teardown(() => rmSync(dataDir, { recursive: true }));
  const directory = join(dataDir, 'cbr0');
  mkdirSync(directory);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  const config = foldKeys({ ipam: { dataDir, subnet: '10.1.0.0/24' } });
  const leases = new MemoryLeases();
  const reports: ImportReport[] = [];
  const open = () => new HostLocalImport({ leases, onReport: (report) => reports.push(report) });
  const [set] = readRangeSets(new FieldReader(config, []).object('ipam')) as [RangeSet];
  return { directory, config, leases, reports, open, set };
}

/** A folder that is being written to is not done with. */
const settled = () => setTimeout(40);

test('files become leases once, are removed, and their addresses go to nobody else', async (t) => {
  const { directory, config, leases, reports, open, set } = folder(t, {
    '10.1.0.2': 'a\r\neth0',
    '10.1.0.4': 'b',
    'last_reserved_ip.0': '10.1.0.4',
    lock: '',
  });
  const imports = open();
  const importing = imports.ensure('cbr0', config);
  t.is(imports.ensure('cbr0', config), importing, 'calls at the same time wait for one import');
  await importing;
  t.deepEqual(leases.lines(), ['cbr0/a/eth0 10.1.0.2', 'cbr0/b/ 10.1.0.4']);
  t.deepEqual(readdirSync(directory).sort(), ['last_reserved_ip.0', 'lock']);
  t.deepEqual(reports, [{ network: 'cbr0', directory, leases: 2, addresses: 2, refused: [] }]);
  await settled();
  await imports.ensure('cbr0', config);
  t.is(imports.ensure('cbr0', config), true);
  await open().ensure('cbr0', config);
  t.is(reports.length, 1, 'a next daemon finds nothing');
  const given = leases.allocate('x', [set]);
  t.is('kind' in given ? undefined : String(given[0]?.ip), '10.1.0.5', 'behind the last one of host-local');
});

test('DEL finds a lease by its interface, or that of the oldest files by the container alone', async (t) => {
  const { config, leases, open } = folder(t, { '10.1.0.2': 'a\r\neth0', '10.1.0.3': 'b' });
  await open().ensure('cbr0', config);
  t.is(findAddressLease(leases, id('a', 'eth1')), undefined);
  t.deepEqual(findAddressLease(leases, id('a'))?.addresses as unknown, ['10.1.0.2']);
  t.deepEqual(findAddressLease(leases, id('b', 'eth7'))?.addresses as unknown, ['10.1.0.3']);
});

test('an import that was cut short goes on', async (t) => {
  const { directory, config, leases, reports, open } = folder(t, { '10.1.0.2': 'a\r\neth0' });
  leases.hold('cbr0/a/eth0', ['10.1.0.2'] as never);
  await open().ensure('cbr0', config);
  t.deepEqual(readdirSync(directory), []);
  t.deepEqual(reports, []);
});

test('what comes into the folder later is taken over at the next call', async (t) => {
  const { directory, config, leases, open } = folder(t, {});
  const imports = open();
  await imports.ensure('cbr0', config);
  writeFileSync(join(directory, '10.1.0.9'), 'late\r\neth0');
  await imports.ensure('cbr0', config);
  t.deepEqual(leases.lines(), ['cbr0/late/eth0 10.1.0.9']);
});

test('an attachment with addresses of ours gets those of the files beside them', async (t) => {
  const { config, leases, open } = folder(t, { '10.1.0.9': 'a\r\neth0' });
  const addresses = ['10.1.0.2'] as never;
  leases.hold('cbr0/a/eth0', addresses);
  leases.record({ ...id('a'), type: 'bridge', rows: {}, addresses });
  await open().ensure('cbr0', config);
  t.deepEqual(leases.lines(), ['cbr0/a/ 10.1.0.9', 'cbr0/a/eth0 10.1.0.2']);
});

test('a file of an address that someone else holds stays and is reported once', async (t) => {
  const { directory, config, leases, reports, open } = folder(t, { '10.1.0.9': 'a\r\neth0' });
  leases.hold('other/b/eth0', ['10.1.0.9'] as never);
  const imports = open();
  await imports.ensure('cbr0', config);
  await settled();
  await imports.ensure('cbr0', config);
  t.is(imports.ensure('cbr0', config), true);
  t.deepEqual(readdirSync(directory), ['10.1.0.9']);
  t.deepEqual(reports, [
    {
      network: 'cbr0',
      directory,
      leases: 0,
      addresses: 0,
      refused: ['10.1.0.9: held by other/b/eth0, not by cbr0/a/eth0'],
    },
  ]);
});

test('nothing is lost when a lease cannot be written down', async (t) => {
  const { directory, config, leases, open } = folder(t, { '10.1.0.2': 'a\r\neth0' });
  const imports = open();
  leases.failure = new Error('no space left on device');
  await t.throwsAsync(async () => imports.ensure('cbr0', config), {
    message: `failed to take over ${directory}: no space left on device`,
    name: 'CniError',
  });
  t.deepEqual(readdirSync(directory), ['10.1.0.2']);
  leases.failure = undefined;
  await imports.ensure('cbr0', config);
  t.deepEqual(leases.lines(), ['cbr0/a/eth0 10.1.0.2']);
});

test('a network without a folder has nothing to take over', (t) => {
  const { config, open } = folder(t, {});
  t.is(open().ensure('another', config), true);
});

test("of the node's own addresses nobody gets one that a file says is in use; the files stay", async (t) => {
  const { directory, config, leases, reports, open, set } = folder(t, {
    '10.1.0.2': 'a\r\neth0',
    '10.88.0.2': 'p\r\neth0',
    'last_reserved_ip.0': '10.88.0.2',
  });
  const dataDir = join(directory, '..');
  mkdirSync(join(dataDir, 'older'));
  writeFileSync(join(dataDir, 'older', '10.1.0.3'), 'b\r\neth0');
  const imports = open();
  const sets = [set];
  const give = (holder: string) => {
    imports.avoid(sets, config);
    const given = leases.allocate(holder, sets);
    return 'kind' in given ? given.kind : String(given[0]?.ip);
  };
  t.is(give('x'), '10.1.0.4');
  t.is(leases.holderOf('10.88.0.2' as never), undefined, 'of another range');
  t.deepEqual(readdirSync(directory).sort(), ['10.1.0.2', '10.88.0.2', 'last_reserved_ip.0']);
  t.deepEqual([leases.lines(), reports], [[], []]);
  writeFileSync(join(directory, '10.1.0.5'), 'c\r\neth0');
  t.is(give('y'), '10.1.0.6', 'at once');
  rmSync(join(dataDir, 'older'), { recursive: true });
  imports.avoid(sets, config);
  t.is(leases.holderOf('10.1.0.3' as never), undefined, 'free with its file');
  t.not(leases.holderOf('10.1.0.2' as never), undefined);
  await imports.ensure('cbr0', config);
  t.deepEqual(leases.lines(), ['cbr0/a/eth0 10.1.0.2', 'cbr0/c/eth0 10.1.0.5', 'cbr0/p/eth0 10.88.0.2']);
  imports.avoid(sets, config);
  t.is(leases.holderOf('10.1.0.2' as never), 'cbr0/a/eth0', 'taken over by a call of that network');
});

test('without a folder of host-local nothing is avoided', (t) => {
  const { leases, open, set } = folder(t, {});
  const dataDir = '/nonexistent';
  open().avoid([set], foldKeys({ ipam: { dataDir } }));
  t.deepEqual([...leases.ipam.holders()], []);
});
