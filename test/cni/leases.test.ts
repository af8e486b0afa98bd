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
import { type Attachment, planAttachment, planNetwork } from '../../cni/attachment.ts';
import { parseNetworkConfig } from '../../cni/config.ts';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { JournalError, parseJournal } from '../../cni/journal.ts';
import { Leases } from '../../cni/leases.ts';

const network = networkOf('10.1.0.0/28');

function networkOf(subnet: string) {
  const config = parseNetworkConfig(foldKeys({ ipam: { subnet } }));
  const planned = config instanceof CniError ? config : planNetwork(config, undefined);
  if (planned instanceof CniError) throw planned;
  return planned;
}

function directory(t: ExecutionContext): string {
  const path = mkdtempSync('/dev/shm/fairlead-leases-');
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
}

/** Allocates and records; the address, or "exhausted". */
function add(leases: Leases, containerId: string): string {
  const given = leases.allocate(`net/${containerId}/eth0`, network.rangeSets);
  if ('exhausted' in given) return 'exhausted';
  leases.record(plan(containerId, given));
  return String(given[0]?.ip);
}

function plan(containerId: string, given: Parameters<typeof planAttachment>[2]): Attachment {
  const id = { network: 'net', containerId, ifname: 'eth0' };
  return planAttachment({ id, sandbox: '/run/netns/x' }, network, given);
}

function held(leases: Leases): string[] {
  return [...leases.values()]
    .map(({ containerId, row }) => `${containerId} ${row.pod?.addresses.join(' ')}`)
    .sort();
}

test('leases outlive the process', (t) => {
  const path = directory(t);
  const first = Leases.open(path, 'boot');
  add(first, 'a');
  add(first, 'b');
  first.release('net/a/eth0');
  const second = Leases.open(path, 'boot');
  t.deepEqual(held(second), ['b 10.1.0.3/28']);
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
  t.deepEqual(held(second), ['a 10.1.0.2/28']);
  add(second, 'b');
  t.deepEqual(held(Leases.open(path, 'boot')), ['a 10.1.0.2/28', 'b 10.1.0.3/28']);
});

test('a bad line in the middle is an error that names file and line, and nothing is touched', (t) => {
  const path = directory(t);
  const file = join(path, 'leases.journal');
  add(Leases.open(path, 'boot'), 'a');
  const text = `${readFileSync(file, 'utf8')}garbage\n{"del":"net/a/eth0"}\n`;
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
  const pending = leases.allocate('net/pending/eth0', network.rangeSets);
  t.false('exhausted' in pending);
  for (let index = 0; index < 4000; index += 1) {
    add(leases, `c${index}`);
    leases.release(`net/c${index}/eth0`);
  }
  t.true(statSync(join(path, 'leases.journal')).size < 2 << 20);
  const again = Leases.open(path, 'boot');
  t.deepEqual(held(again), ['stays 10.1.0.2/28']);
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
  const given = leases.allocate('net/b/eth0', network.rangeSets);
  if ('exhausted' in given) return t.fail();
  t.throws(() => leases.record(plan('b', given)));
  t.is(leases.get('net/b/eth0'), undefined);
  leases.release('net/b/eth0');
  t.deepEqual(held(Leases.open(path, 'boot')), ['a 10.1.0.2/28']);
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
          if (leases.get(key) !== undefined || kind === 'del') leases.release(key);
          else if (kind === 'add') add(leases, `p${pod}`);
          else {
            leases.allocate(key, network.rangeSets);
            leases.release(key);
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
