import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { parseResults, renderJob, renderSummary, SUITES } from './suites.ts';

const suites = [
  { file: 'a.test.ts', limitSeconds: 10 },
  { file: 'b.test.ts', limitSeconds: 20, match: 'pods reach*' },
];

test('every suite of the list is a file', (t) => {
  const root = join(import.meta.dirname, '../..');
  t.deepEqual(
    SUITES.filter(({ file }) => !existsSync(join(root, file))),
    [],
  );
});

test('a job is the folder, the budget, modules, and a line for each suite', (t) => {
  const [folder, budget, modules, ...lines] = renderJob('/a checkout', 480, suites).split('\n');
  t.deepEqual([folder, budget], ['/a checkout', '480']);
  t.regex(modules ?? '', /\bip_vs_rr\b/);
  t.deepEqual(lines, ['10\ta.test.ts\t', '20\tb.test.ts\tpods reach*', '']);
});

test('exit statuses of suites are outcomes', (t) => {
  for (const [status, outcome] of [
    ['0', 'passed'],
    ['1', 'failed'],
    ['124', 'over its limit'],
    ['137', 'over its limit'],
  ]) {
    const text = `module\tfoo\nkernel\t6.1.0\t3\nbegun\ta.test.ts\nsuite\t7\t${status}\ta.test.ts\nbegun\tb.test.ts\n`;
    t.like(parseResults(text, suites), {
      kernel: { version: '6.1.0', bootSeconds: 3 },
      missingModules: ['foo'],
      outcomes: [
        { file: 'a.test.ts', outcome, seconds: 7 },
        { file: 'b.test.ts', outcome: 'not ended' },
      ],
    });
  }
});

test('what a machine that died early leaves open is said', (t) => {
  const results = parseResults('', suites);
  t.is(results.kernel, undefined);
  t.is(
    renderSummary(results, 'the time was up'),
    'vm: not begun      a.test.ts (the time was up)\nvm: not begun      b.test.ts (the time was up; only "pods reach*")\n',
  );
});
