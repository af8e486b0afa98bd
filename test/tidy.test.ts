import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import test from 'ava';
import { missingEntries } from '../scripts/complete-lock.ts';

// The rules of the repository that neither the compiler nor the linter knows.

const root = join(import.meta.dirname, '..');
const notOurs = ['.git', '.cache', 'node_modules'];

/** Which folder may import which others; itself always. */
const mayImport: Readonly<Record<string, readonly string[] | 'everything'>> = {
  core: [],
  native: [],
  scripts: [],
  kernel: ['core', 'native'],
  kube: ['core'],
  cni: ['core', 'kernel'],
  daemon: ['core', 'kernel', 'kube', 'cni'],
  proxy: ['core', 'kernel', 'kube'],
  controlplane: ['core', 'kube'],
  kubelet: ['core', 'kernel', 'kube'],
  dns: ['core', 'kube'],
  ingress: ['core', 'kube'],
  cli: [
    'core',
    'native',
    'kernel',
    'kube',
    'cni',
    'daemon',
    'proxy',
    'controlplane',
    'kubelet',
    'dns',
    'ingress',
  ],
  bench: 'everything',
  test: 'everything',
};

const limits = { sourceLines: 400, readmeLines: 12, decisionLines: 30 };

/** Words that say a thing is not done, or speak to nobody who reads this repository. */
const unwantedWords =
  /\b(TODO|FIXME|XXX|HACK|(this|previous|next) session|as requested|as discussed|the brief)\b/;
/** Places on one developer's machine. */
const privatePath = /(?<![\w.$}-])\/(work|root|home)\//;

const files = listFiles('');
const sources = files.filter((file) => file.endsWith('.ts'));
const texts = files.filter((file) => /\.(ts|md|json|sh|c|h|ya?ml|txt)$/.test(file) || !/\.\w+$/.test(file));
/** This file names what it forbids, and the licence is not our text. */
const ownTexts = texts.filter(
  (file) => !['test/tidy.test.ts', 'LICENSE', 'package-lock.json'].includes(file),
);

function listFiles(folder: string): string[] {
  const entries = readdirSync(join(root, folder), { withFileTypes: true });
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return folder === '' && notOurs.includes(entry.name) ? [] : listFiles(path);
    return entry.isFile() ? [path] : [];
  });
}

const readAlready = new Map<string, string>();

function read(file: string): string {
  const text = readAlready.get(file) ?? readFileSync(join(root, file), 'utf8');
  readAlready.set(file, text);
  return text;
}

function topFolder(file: string): string {
  return file.slice(0, file.indexOf('/'));
}

/** The files of this repository that a source imports, also lazily, and unless told otherwise also for types. */
function importsOf(file: string, { types = true } = {}): string[] {
  const text = types ? read(file) : read(file).replaceAll(/^(?:import|export) type [^;]+;$/gm, '');
  const found = text.matchAll(/(?:\bfrom|\bimport|\bimport\()\s*'(\.{1,2}\/[^']+\.ts)'/g);
  return [...found].map(([, path = '']) => normalize(join(dirname(file), path)));
}

/** "file:line: text" of every line that matches. */
function linesWith(pattern: RegExp, among: readonly string[]): string[] {
  return among.flatMap((file) =>
    read(file)
      .split('\n')
      .flatMap((line, index) => (pattern.test(line) ? [`${file}:${index + 1}: ${line.trim()}`] : [])),
  );
}

function lineCount(file: string): number {
  return read(file).trimEnd().split('\n').length;
}

test('folders import only the folders below them', (t) => {
  const wrong = sources.flatMap((file) => {
    const from = topFolder(file);
    const allowed = mayImport[from] ?? [];
    const targets = importsOf(file).filter((target) => topFolder(target) !== from);
    return allowed === 'everything'
      ? []
      : targets
          .filter((target) => !allowed.includes(topFolder(target)))
          .map((target) => `${file} → ${target}`);
  });
  t.deepEqual(wrong, []);
});

test('every folder with sources has its place in the layers', (t) => {
  t.deepEqual(
    [...new Set(sources.map(topFolder))].filter((folder) => !(folder in mayImport)),
    [],
  );
});

test('a main.ts is imported only by what starts whole parts: the command, benches, tests', (t) => {
  const isMain = (target: string) => target.endsWith('main.ts');
  const wrong = sources.flatMap((file) =>
    importsOf(file)
      .filter(isMain)
      .filter(
        (target) =>
          topFolder(target) === topFolder(file) || !['cli', 'bench', 'test'].includes(topFolder(file)),
      )
      .map((target) => `${file} → ${target}`),
  );
  t.deepEqual(wrong, []);
});

test('at run time no file imports itself by way of others', (t) => {
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (file: string, way: readonly string[]) => {
    if (way.includes(file)) cycles.push([...way.slice(way.indexOf(file)), file].join(' → '));
    if (way.includes(file) || done.has(file) || !sources.includes(file)) return;
    for (const target of importsOf(file, { types: false })) visit(target, [...way, file]);
    done.add(file);
  };
  for (const file of sources) visit(file, []);
  t.deepEqual(cycles, []);
});

test('every top folder begins with a short README.md', (t) => {
  const folders = new Set(files.filter((file) => file.includes('/') && !file.startsWith('.')).map(topFolder));
  const isShort = (folder: string) => {
    const readme = join(folder, 'README.md');
    return files.includes(readme) && lineCount(readme) <= limits.readmeLines;
  };
  t.deepEqual(
    [...folders].filter((folder) => !isShort(folder)),
    [],
  );
});

test(`no source file is longer than ${limits.sourceLines} lines`, (t) => {
  const code = files.filter((file) => /\.(ts|c|h|sh)$/.test(file));
  t.deepEqual(
    code.filter((file) => lineCount(file) > limits.sourceLines),
    [],
  );
});

test('nothing is left for later in the text, and nothing speaks to somebody outside of it', (t) => {
  t.deepEqual(linesWith(unwantedWords, ownTexts), []);
});

test('no text names a place on one developer’s machine', (t) => {
  t.deepEqual(linesWith(privatePath, ownTexts), []);
});

test('only commands print', (t) => {
  const quiet = sources.filter((file) => !['cli', 'bench', 'scripts', 'test'].includes(topFolder(file)));
  t.deepEqual(linesWith(/\bconsole\.(log|error|warn|info|debug)\(/, quiet), []);
});

test('no test is singled out, and a test that is not run says why on the line above', (t) => {
  const tests = sources.filter((file) => file.endsWith('.test.ts'));
  const wrong = tests.flatMap((file) => {
    const lines = read(file).split('\n');
    return lines.flatMap((line, index) => {
      const excused = (lines[index - 1] ?? '').trimStart().startsWith('//');
      const isWrong =
        /^\s*test(\.\w+)*\.only\(/.test(line) ||
        (/^\s*test(\.\w+)*\.(skip|todo|failing)\(/.test(line) && !excused);
      return isWrong ? [`${file}:${index + 1}`] : [];
    });
  });
  t.deepEqual(wrong, []);
});

test('the lock file names no registry, and names the packages of every platform', (t) => {
  t.deepEqual(linesWith(/"resolved":/, ['package-lock.json']), []);
  const missing = Object.keys(missingEntries(JSON.parse(read('package-lock.json'))));
  t.deepEqual(
    missing,
    [],
    'npm ci would refuse this lock file; `node scripts/complete-lock.ts` completes it',
  );
});

test('the licence is there, and package.json names it', (t) => {
  t.true(read('LICENSE').includes('Apache License'));
  t.is(JSON.parse(read('package.json')).license, 'Apache-2.0');
});

test('decision records are short and have context, decision and consequences', (t) => {
  const records = files.filter((file) => file.startsWith('docs/decisions/') && !file.endsWith('README.md'));
  const isRecord = (file: string) =>
    /\/\d{4}-[a-z0-9-]+\.md$/.test(file) &&
    lineCount(file) <= limits.decisionLines &&
    ['Context', 'Decision', 'Consequences'].every((title) => read(file).includes(`\n## ${title}\n`));
  t.true(records.length > 0);
  t.deepEqual(
    records.filter((file) => !isRecord(file)),
    [],
  );
});

test('links between documents lead to files', (t) => {
  const documents = files.filter((file) => file.endsWith('.md'));
  const broken = documents.flatMap((file) =>
    [...read(file).matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)]
      .filter(
        ([, target = '']) =>
          statSync(join(root, dirname(file), target), { throwIfNoEntry: false }) === undefined,
      )
      .map(([, target]) => `${file} → ${target}`),
  );
  t.deepEqual(broken, []);
});
