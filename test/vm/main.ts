/**
 * Runs test files inside a virtual machine with Debian's kernel, from this working tree, without KVM. Exit status:
 * 0 passed, 1 failed, 3 nothing could be run (stderr says why), 130 or 143 stopped.
 */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { Command } from 'commander';
import { NAMED_LIMIT_SECONDS, parseResults, renderJob, renderSummary, SUITES, type Suite } from './suites.ts';

const EXIT_UNABLE = 3;
/** Beyond the budget, which the guest itself keeps: for its boot and its end. */
const GRACE_SECONDS = 60;
/** For the list; files that are named get as much as their limits come to. */
const BUDGET_MINUTES = 18;
/** apt may wait long for a network that does not answer. */
const PREPARATION_LIMIT_MS = 5 * 60_000;
const PARENT_POLL_MS = 500;

const checkout = join(import.meta.dirname, '../..');
const cache = join(checkout, '.cache/vm');

const command = new Command('npm run test:vm --')
  .description(
    "Runs test files in a virtual machine with Debian's kernel. Without a file: a list of its own.",
  )
  .argument('[files...]', 'the test files to run, or benches')
  .option('--minutes <n>', 'a file is begun only if its limit ends within this time', Number)
  .option('--match <title>', 'of the files that are named only such tests, in ava’s form')
  .option('--entries', 'benches print what they found for another process', false)
  .action(main);
await command.parseAsync();

interface Options {
  readonly minutes?: number;
  readonly match?: string;
  readonly entries: boolean;
}

async function main(files: readonly string[], options: Options): Promise<void> {
  const suites = files.length === 0 ? SUITES : files.map((name) => namedSuite(name, options));
  const { minutes = files.length === 0 ? BUDGET_MINUTES : limitMinutes(suites) } = options;
  if (!(minutes > 0)) command.error(`error: --minutes: a number above 0 is needed`);
  const kernel = prepareKernel(suites);
  if (kernel === undefined) return;
  using folder = runFolder();
  // The preparation counts as well.
  const budgetSeconds = Math.max(1, Math.ceil(minutes * 60 - performance.now() / 1000));
  writeFileSync(join(folder.path, 'job'), renderJob(checkout, budgetSeconds, suites));
  const end = await runMachine(kernel, folder.path, budgetSeconds + GRACE_SECONDS);
  report(folder.path, suites, end);
}

function limitMinutes(suites: readonly Suite[]): number {
  const seconds = suites.reduce((sum, { limitSeconds }) => sum + limitSeconds, GRACE_SECONDS);
  return (seconds * 1000 + PREPARATION_LIMIT_MS) / 60_000;
}

function namedSuite(name: string, { entries, match: title }: Options): Suite {
  const file = relative(checkout, resolve(name));
  if (file.startsWith('..') || !existsSync(join(checkout, file)))
    command.error(`error: ${name}: no such test file in ${checkout}`);
  const match = !file.startsWith('bench/') ? title : entries ? '--entries' : undefined;
  return { file, limitSeconds: NAMED_LIMIT_SECONDS, ...(match && { match }) };
}

/** The folder with the unpacked kernel; undefined, with the exit status set, when there is none to be had. */
function prepareKernel(suites: readonly Suite[]): string | undefined {
  const { status, stdout, error } = spawnSync('sh', [join(import.meta.dirname, 'prepare.sh'), cache], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
    timeout: PREPARATION_LIMIT_MS,
  });
  if (status === 0) return stdout.trim();
  unable(
    error === undefined ? 'the preparation failed (above)' : `the preparation: ${error.message}`,
    suites,
  );
  return undefined;
}

function unable(reason: string, suites: readonly Suite[]): void {
  process.stderr.write(`vm: skipped, nothing was run in a virtual machine: ${reason}\n`);
  process.stderr.write(renderSummary(parseResults('', suites), 'no machine'));
  process.exitCode = EXIT_UNABLE;
}

/** A folder of this run; those of processes that were killed are removed. */
function runFolder(): Disposable & { readonly path: string } {
  const runs = join(cache, 'runs');
  mkdirSync(runs, { recursive: true });
  for (const pid of readdirSync(runs))
    if (!existsSync(`/proc/${pid}`)) rmSync(join(runs, pid), { recursive: true, force: true });
  const path = join(runs, `${process.pid}`);
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

type End = NodeJS.Signals | 'time' | 'by itself';

/** Runs the machine to its end, or ends it: at a signal, when our parent is gone, when nobody reads, when it is time. */
async function runMachine(kernel: string, folder: string, limitSeconds: number): Promise<End> {
  const machine = join(import.meta.dirname, 'machine.sh');
  const inside = [
    'unshare',
    '--fork',
    '--pid',
    '--kill-child',
    '--mount-proc',
    'sh',
    machine,
    kernel,
    folder,
  ];
  // Not even SIGKILL for this process leaves it running.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...inside], { stdio: ['pipe', 'pipe', 'inherit'] });
  let end: End = 'by itself';
  const stop = (why: End) => {
    if (end === 'by itself') end = why;
    child.kill('SIGKILL');
  };
  const parent = process.ppid;
  const orphaned = setInterval(() => process.ppid === parent || stop('SIGHUP'), PARENT_POLL_MS);
  const timer = setTimeout(() => stop('time'), limitSeconds * 1000);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  process.stdout.on('error', () => stop('SIGPIPE'));
  child.stdout.pipe(process.stdout, { end: false });
  await once(child, 'close');
  clearInterval(orphaned);
  clearTimeout(timer);
  return end;
}

function report(folder: string, suites: readonly Suite[], end: End): void {
  const read = (name: string) =>
    existsSync(join(folder, name)) ? readFileSync(join(folder, name), 'utf8') : '';
  const results = parseResults(read('results'), suites);
  if (end !== 'by itself' && end !== 'time') {
    process.exitCode = 128 + constants.signals[end];
    process.stderr.write(`vm: stopped by ${end}\n`);
    return;
  }
  if (results.kernel === undefined) {
    unable(`the machine did not come up; its console says:\n${read('console').slice(-2000)}`, suites);
    return;
  }
  const { version, bootSeconds } = results.kernel;
  process.stdout.write(`\nvm: Linux ${version}, emulated; ready ${bootSeconds} s after its start\n`);
  process.stdout.write(renderSummary(results, end === 'time' ? 'the time was up' : 'the budget was used up'));
  const isGood = results.outcomes.every(({ outcome }) => outcome === 'passed' || outcome === 'not begun');
  // A machine that does not go off by itself has ended its work all the same.
  process.exitCode = isGood ? 0 : 1;
}
