import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ChangeRecord, readChanges } from '../../cni/changes.ts';
import type { HostCidr } from '../../core/address.ts';

const quiet = { info: () => {}, warn: () => {}, error: () => {} };

function place(t: ExecutionContext): string {
  const directory = mkdtempSync('/dev/shm/fairlead-changes-');
  t.teardown(() => rmSync(directory, { recursive: true }));
  return join(directory, 'changes.json');
}

test('what a setting was is told by the first change, whoever made the later ones', (t) => {
  const path = place(t);
  const record = new ChangeRecord(path, quiet);
  record.setting('net/a', '0', '1');
  record.setting('net/same', '1', '1');
  new ChangeRecord(path, quiet).setting('net/a', '5', '2');
  t.deepEqual(readChanges(path).settings, { 'net/a': { before: '0', after: '2' } });
});

test('a setting is read once for each value, and not at all where it is not there', (t) => {
  const path = place(t);
  const record = new ChangeRecord(path, quiet);
  let reads = 0;
  const read = (value: string | undefined) => () => {
    reads += 1;
    return value;
  };
  for (let round = 0; round < 3; round += 1) record.settingOnce('net/a', read('0'), '1');
  record.settingOnce('net/gone', read(undefined), '1');
  t.is(reads, 2);
  t.deepEqual(Object.keys(readChanges(path).settings), ['net/a']);
});

test('what bridges of others got adds up', (t) => {
  const path = place(t);
  const [one, two] = ['10.1.0.1/24', 'fd01::1/64'] as HostCidr[] as [HostCidr, HostCidr];
  const record = new ChangeRecord(path, quiet);
  record.bridge('br0', { addresses: [one] });
  record.bridge('br0', { addresses: [one, two] });
  record.bridge('br1', { addresses: [], promiscuous: true });
  new ChangeRecord(path, quiet).bridge('br0', { addresses: [], promiscuous: true });
  t.deepEqual(readChanges(path).bridges, {
    br0: { addresses: [one, two], promiscuous: true },
    br1: { addresses: [], promiscuous: true },
  });
});

test('sources of firewalld are on record until they are taken out again, also by a next agent', (t) => {
  const path = place(t);
  const record = new ChangeRecord(path, quiet);
  record.changeSources(['10.1.0.5/32 trusted', '10.1.0.6/32 trusted'], []);
  record.changeSources(['10.1.0.5/32 trusted'], ['10.1.0.6/32 trusted', '10.1.0.7/32 trusted']);
  t.deepEqual(readChanges(path).sources, ['10.1.0.5/32 trusted']);
  const next = new ChangeRecord(path, quiet);
  t.deepEqual(next.sources, ['10.1.0.5/32 trusted']);
  next.changeSources([], next.sources);
  t.deepEqual(readChanges(path).sources, []);
});

test('a record that cannot be read says nothing; one that cannot be written is told and stops nothing', (t) => {
  const path = place(t);
  t.deepEqual(readChanges(path), { settings: {}, bridges: {}, sources: [] });
  writeFileSync(path, '{"settings":');
  t.deepEqual(readChanges(path), { settings: {}, bridges: {}, sources: [] });
  const told: string[] = [];
  const record = new ChangeRecord('/nowhere/changes.json', { ...quiet, warn: (_, text) => told.push(text) });
  t.notThrows(() => record.setting('net/a', '0', '1'));
  t.is(told.length, 1);
});
