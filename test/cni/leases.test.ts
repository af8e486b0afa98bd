import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { JournalError, parseJournal } from '../../cni/journal.ts';
import { Leases } from '../../cni/leases.ts';
import type { Part } from '../../cni/part.ts';
import { type RangeSet, subnetRange } from '../../cni/ranges.ts';
import type { Cidr, Ip } from '../../core/address.ts';

const range = subnetRange('10.1.0.0/28' as Cidr);
const rangeSets: RangeSet[] = typeof range === 'string' ? [] : [[range]];

function directory(t: ExecutionContext): string {
  const path = mkdtempSync('/dev/shm/fairlead-leases-');
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
}

/** Allocates and records; the address, or "exhausted". */
function add(leases: Leases, containerId: string): string {
  const given = leases.allocate(`net/${containerId}/eth0`, rangeSets);
  if ('kind' in given) return given.kind;
  leases.record(partOf(containerId, { addresses: given.map(({ ip }) => ip) }));
  return String(given[0]?.ip);
}

function partOf(containerId: string, more: Partial<Part> = {}): Part {
  return { network: 'net', containerId, ifname: 'eth0', type: 'fairlead', rows: {}, ...more };
}

function remove(leases: Leases, containerId: string): void {
  for (const part of leases.get(`net/${containerId}/eth0`)) leases.release(part);
}

function held(leases: Leases): string[] {
  return [...leases.values()].map(({ containerId, addresses }) => `${containerId} ${addresses}`).sort();
}

test('leases outlive the process', (t) => {
  const path = directory(t);
  const first = Leases.open(path, 'boot');
  add(first, 'a');
  add(first, 'b');
  remove(first, 'a');
  const second = Leases.open(path, 'boot');
  t.deepEqual(held(second), ['b 10.1.0.3']);
  t.deepEqual(second.get('net/b/eth0'), JSON.parse(JSON.stringify(first.get('net/b/eth0'))));
  t.is(add(second, 'c'), '10.1.0.4');
});

test('a new boot frees everything', (t) => {
  const path = directory(t);
  add(Leases.open(path, 'one'), 'a');
  const leases = Leases.open(path, 'two');
  t.deepEqual(held(leases), []);
  t.is(add(leases, 'b'), '10.1.0.2');
});

test('a last line that was cut short does not count, and the next one does', (t) => {
  const path = directory(t);
  add(Leases.open(path, 'boot'), 'a');
  appendFileSync(join(path, 'leases.journal'), '{"add":{"netwo');
  const second = Leases.open(path, 'boot');
  t.deepEqual(held(second), ['a 10.1.0.2']);
  add(second, 'b');
  t.deepEqual(held(Leases.open(path, 'boot')), ['a 10.1.0.2', 'b 10.1.0.3']);
});

test('a bad line in the middle is an error that names file and line, and nothing is touched', (t) => {
  const path = directory(t);
  const file = join(path, 'leases.journal');
  add(Leases.open(path, 'boot'), 'a');
  const text = `${readFileSync(file, 'utf8')}garbage\n{"del":"net/a/eth0","type":"fairlead"}\n`;
  writeFileSync(file, text);
  const error = t.throws(() => Leases.open(path, 'boot'), { instanceOf: JournalError });
  t.regex(error.message, /leases\.journal:4: /);
  t.is(readFileSync(file, 'utf8'), text);
});

test('a file of another program is refused', (t) => {
  t.throws(() => parseJournal('{"x":1}\n', 'boot', 'f'), { message: 'f:1: no journal of leases' });
});

test('the journal is compacted and stays right', (t) => {
  const path = directory(t);
  const leases = Leases.open(path, 'boot');
  add(leases, 'stays');
  const pending = leases.allocate('net/pending/eth0', rangeSets);
  t.false('kind' in pending);
  for (let index = 0; index < 4000; index += 1) {
    add(leases, `c${index}`);
    remove(leases, `c${index}`);
  }
  t.true(statSync(join(path, 'leases.journal')).size < 2 << 20);
  const again = Leases.open(path, 'boot');
  t.deepEqual(held(again), ['stays 10.1.0.2']);
  // 14 addresses less gateway and "stays": the one that was never recorded is among them.
  const all = new Set(Array.from({ length: 12 }, (_, index) => add(again, `n${index}`)));
  t.is(all.size, 12);
  t.false(all.has('exhausted'));
});

test('a journal that cannot be written refuses the lease and keeps no half line', (t) => {
  const path = directory(t);
  const leases = Leases.open(path, 'boot');
  add(leases, 'a');
  leases[Symbol.dispose]();
  const given = leases.allocate('net/b/eth0', rangeSets);
  if ('kind' in given) return t.fail();
  t.throws(() => leases.record(partOf('b', { addresses: given.map(({ ip }) => ip) })));
  t.deepEqual(leases.get('net/b/eth0'), []);
  leases.giveBack('net/b/eth0');
  t.deepEqual(held(Leases.open(path, 'boot')), ['a 10.1.0.2']);
});

test('cut anywhere, the journal gives a state that was, and loses no address', (t) => {
  const root = directory(t);
  let run = 0;
  const step = fc.record({ pod: fc.nat(8), kind: fc.constantFrom('add', 'add', 'del', 'failed') });
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 40 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (steps, cut) => {
        const path = join(root, `run${run++}`);
        mkdirSync(path);
        const leases = Leases.open(path, 'boot');
        const states = new Set([held(leases).join()]);
        for (const { pod, kind } of steps) {
          const key = `net/p${pod}/eth0`;
          if (leases.get(key).length > 0 || kind === 'del') remove(leases, `p${pod}`);
          else if (kind === 'add') add(leases, `p${pod}`);
          else {
            leases.allocate(key, rangeSets);
            leases.giveBack(key);
          }
          states.add(held(leases).join());
        }
        const file = join(path, 'leases.journal');
        const bytes = readFileSync(file);
        const header = bytes.indexOf('\n') + 1;
        writeFileSync(file, bytes.subarray(0, header + Math.floor(cut * (bytes.length - header))));
        const again = Leases.open(path, 'boot');
        t.true(states.has(held(again).join()));
        const free = 13 - again.size;
        const rest = new Set(Array.from({ length: free }, (_, index) => add(again, `rest${index}`)));
        t.is(rest.size, free);
        t.false(rest.has('exhausted'));
        t.is(add(again, 'more'), 'exhausted');
        again[Symbol.dispose]();
        leases[Symbol.dispose]();
      },
    ),
    { numRuns: 60 },
  );
});

test('parts of one attachment come and go by themselves, in the order of the chain', (t) => {
  const path = directory(t);
  const leases = Leases.open(path, 'boot');
  add(leases, 'a');
  leases.record(partOf('a', { type: 'portmap' }));
  leases.record(partOf('a', { type: 'tuning' }));
  leases.release(partOf('a', { type: 'portmap' }));
  const again = Leases.open(path, 'boot');
  t.deepEqual(
    again.get('net/a/eth0').map(({ type }) => type),
    ['fairlead', 'tuning'],
  );
  t.is(again.size, 1);
  t.is(again.holderOf('10.1.0.2' as Ip), 'net/a/eth0');
});

test('a part in the place of an earlier one of its type has its own addresses only', (t) => {
  const path = directory(t);
  const leases = Leases.open(path, 'boot');
  add(leases, 'a');
  leases.record(partOf('a', { addresses: ['10.1.0.2' as Ip], bridge: { bridge: 'br1', gateways: [] } }));
  const again = Leases.open(path, 'boot');
  t.is(again.size, 1);
  t.is(again.get('net/a/eth0')[0]?.bridge?.bridge, 'br1');
});

test('a journal of the first version is read, and written anew in the second', (t) => {
  const path = directory(t);
  const row = {
    hostName: 'fl0',
    alias: 'fairlead x',
    bridge: 'cni0',
    mtuBytes: 1450,
    pod: { sandbox: '/x', ifname: 'eth0', addresses: ['10.1.0.2/28'], routes: [] },
  };
  const id = (containerId: string) => ({ network: 'net', containerId, ifname: 'eth0' });
  const lines = [
    { journal: 'fairlead-leases', version: 1, boot: 'boot' },
    { pool: rangeSets[0] },
    { add: { ...id('a'), row, gateways: ['10.1.0.1/28'] } },
    {
      add: { ...id('b'), row: { ...row, pod: { ...row.pod, addresses: ['10.1.0.3/28'] } }, gateways: [] },
    },
    { del: 'net/b/eth0' },
  ];
  const file = join(path, 'leases.journal');
  writeFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  const leases = Leases.open(path, 'boot');
  t.deepEqual(leases.get('net/a/eth0'), [
    partOf('a', {
      rows: { attachment: row as never },
      addresses: ['10.1.0.2' as Ip],
      bridge: { bridge: 'cni0', mtuBytes: 1450, gateways: ['10.1.0.1/28' as never] },
    }),
  ]);
  t.is(leases.size, 1);
  t.is(add(leases, 'c'), '10.1.0.4');
  t.regex(readFileSync(file, 'utf8'), /"version":2/);
  t.deepEqual(held(Leases.open(path, 'boot')), ['a 10.1.0.2', 'c 10.1.0.4']);
});

test('a journal of a version still to come is refused', (t) => {
  const header = '{"journal":"fairlead-leases","version":3,"boot":"boot"}\n';
  t.throws(() => parseJournal(header, 'boot', 'f'), {
    message: 'f:1: version 3 of the journal is not known',
  });
});
