import test from 'ava';
import { recordSection } from '../../bench/frame/record.ts';
import { renderJson, renderTable, renderVerdict } from '../../bench/frame/render.ts';
import { meets, RecordingFrame } from '../../bench/frame.ts';

function example() {
  const frame = new RecordingFrame({ quick: false, progress: () => undefined });
  frame.samples('ADD', [[1, 1.25], [1.5]], { target: { atMost: 2 } });
  frame.ratio('reference ADD / ADD', [[9]], [[1]], { target: { atLeast: 10 } });
  frame.figure('shim', 9012, 'bytes');
  frame.missing('bridge 1.1.1', 'not installed');
  return frame.entries;
}

test('the table shows percentiles, spread, targets and what was missing', (t) => {
  t.is(
    renderTable(example()),
    [
      'figure                p50   p90   p99   spread  unit   target',
      'ADD                  1.25  1.50  1.50  1..1.50  ms     <= 2    ok',
      'reference ADD / ADD     9                 9..9  x      >= 10   MISSED',
      'shim                 9012                       bytes',
      'missing: bridge 1.1.1 (not installed)',
    ].join('\n'),
  );
});

test('JSON has one object a line and a line for what was missing', (t) => {
  t.deepEqual(
    renderJson('cni', example()).map((line) => JSON.parse(line)),
    [
      {
        bench: 'cni',
        figure: 'ADD p50',
        value: 1.25,
        unit: 'ms',
        spread: [1, 1.5],
        target: '<= 2',
        ok: true,
      },
      { bench: 'cni', figure: 'ADD p90', value: 1.5, unit: 'ms' },
      { bench: 'cni', figure: 'ADD p99', value: 1.5, unit: 'ms' },
      {
        bench: 'cni',
        figure: 'reference ADD / ADD',
        value: 9,
        unit: 'x',
        spread: [9, 9],
        target: '>= 10',
        ok: false,
      },
      { bench: 'cni', figure: 'shim', value: 9012, unit: 'bytes' },
      { bench: 'cni', missing: 'bridge 1.1.1', why: 'not installed' },
    ],
  );
});

test('the verdict names the missed targets', (t) => {
  t.is(renderVerdict(example()), '1 of 2 targets met; MISSED: reference ADD / ADD');
  t.is(renderVerdict([]), '0 of 0 targets met');
});

test('a target may be a limit from above, from below, or both', (t) => {
  t.true(meets(1, { atMost: 1 }));
  t.false(meets(1.1, { atMost: 1 }));
  t.true(meets(1, { atLeast: 0.9, atMost: 1.1 }));
  t.false(meets(0.8, { atLeast: 0.9, atMost: 1.1 }));
  t.is(meets(5, undefined), undefined);
});

const occasion = {
  date: '2026-01-02',
  command: 'npm run bench -- b',
  kernel: 'Linux 6.1',
  cores: 2,
  node: 'v24.0.0',
};
const section = (title: string) => `## ${title}\n\nold text of ${title}\n`;

test("recording replaces a bench's section and leaves the others alone", (t) => {
  const before = ['# Benchmarks\n', section('a'), section('b'), section('c')].join('\n');
  const after = recordSection(before, 'b', { description: 'what b does', entries: example(), occasion });
  t.true(after.includes(section('a')) && after.includes(section('c')));
  t.false(after.includes('old text of b'));
  t.true(after.includes('2026-01-02, Linux 6.1, 2 cores, Node v24.0.0: `npm run bench -- b`'));
  t.true(after.includes('- missing: bridge 1.1.1 (not installed)'));
  t.is(recordSection(after, 'b', { description: 'what b does', entries: example(), occasion }), after);
});

test('recording a new bench puts its section in alphabetical order', (t) => {
  const before = ['# Benchmarks\n', section('a'), section('c')].join('\n');
  const after = recordSection(before, 'b', { description: 'what b does', entries: [], occasion });
  t.deepEqual(after.match(/^#+ .*$/gm), ['# Benchmarks', '## a', '## b', '## c']);
});
