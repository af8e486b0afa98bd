import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';

/* The conformance table of docs/cni.md: every line names a test that there is. */

const root = join(import.meta.dirname, '../..');
const text = readFileSync(join(root, 'docs/cni.md'), 'utf8');
const verbs = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'];

interface Line {
  readonly subject: string;
  readonly behaviour: string;
  readonly versions: string;
  /** Below test/. */
  readonly file: string;
  readonly title: string;
}

const rows = text
  .slice(text.indexOf('\n## Conformance\n'))
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| verb or type '));

function parse(row: string): Line | undefined {
  const [subject = '', behaviour = '', versions = '', named = '', ...more] = row.slice(2, -2).split(' | ');
  const [, file, title] = /^`([^`]+\.test\.ts)`: (.+)$/.exec(named) ?? [];
  if (file === undefined || title === undefined || more.length > 0) return undefined;
  return { subject, behaviour, versions, file, title: title.replace(/^`(.*)`$/, '$1') };
}

const lines = rows.flatMap((row) => parse(row) ?? []);

function isThere({ file, title }: Line): boolean {
  const path = join(root, 'test', file);
  if (!existsSync(path)) return false;
  const literal = title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const declared = `(?:[tT]est(?:\\.serial)?|fact|factOf\\(.*\\))\\(\\s*`;
  return new RegExp(`${declared}(['"\`])${literal}\\1`).test(readFileSync(path, 'utf8'));
}

test('every line of the conformance table has a subject, a behaviour, versions and a test', (t) => {
  t.true(rows.length > 100);
  t.deepEqual(
    rows.filter((row) => parse(row) === undefined),
    [],
  );
  const isVersions = (versions: string) => /^(all|each|–|\d\.\d\.\d(, \d\.\d\.\d)*( on)?)$/.test(versions);
  t.deepEqual(
    lines.filter(({ versions, behaviour }) => !isVersions(versions) || behaviour === ''),
    [],
  );
});

test('every test that the conformance table names is there', (t) => {
  t.deepEqual(
    lines.filter((line) => !isThere(line)).map(({ file, title }) => `${file}: ${title}`),
    [],
  );
});

test('no two lines of the conformance table are the same, and every verb has some', (t) => {
  const keys = lines.map(({ subject, behaviour }) => `${subject}: ${behaviour}`);
  t.deepEqual(
    keys.filter((key, index) => keys.indexOf(key) !== index),
    [],
  );
  const without = verbs.filter((verb) => !lines.some(({ subject }) => subject.split(', ').includes(verb)));
  t.deepEqual(without, []);
});
