import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, release, type } from 'node:os';
import { Command } from 'commander';
import { recordSection } from './frame/record.ts';
import { renderJson, renderTable, renderVerdict } from './frame/render.ts';
import { type Bench, RecordingFrame } from './frame.ts';

const notBenches = ['main.ts', 'frame.ts'];
const recordUrl = new URL('../docs/benchmarks.md', import.meta.url);

/** What the proxy's modes are measured by. */
const modeBenches: ReadonlyMap<string, string> = new Map([
  ['nftables', 'proxy'],
  ['ipvs', 'ipvs'],
]);

interface Options {
  readonly json: boolean;
  readonly entries: boolean;
  readonly mode?: string | undefined;
  readonly record: boolean;
  readonly quick: boolean;
}

const command = new Command('npm run bench --')
  .description('Measures Fairlead. Without a name: lists the benches. "all" runs every one.')
  .argument('[names...]', 'the benches to run')
  .option('--json', 'print one JSON object a line', false)
  .option('--entries', 'print all that was found as one line of JSON, for another process', false)
  .option('--mode <mode>', `of the bench proxy: ${[...modeBenches.keys()].join(' (default) or ')}`)
  .option('--record', "replace the bench's section in docs/benchmarks.md", false)
  .option('--quick', 'few rounds and small sizes: shows that it runs, not how fast', false)
  .action(main);
await command.parseAsync();

async function main(names: readonly string[], options: Options): Promise<void> {
  const known = benchNames();
  if (options.mode !== undefined)
    return main(namesOfMode(names, options.mode), { ...options, mode: undefined });
  if (names.length === 0) return listBenches(known);
  if (options.quick && options.record) command.error('error: --quick measures nothing worth recording');
  const wanted = names.includes('all') ? known : names;
  const unknown = wanted.filter((name) => !known.includes(name));
  if (unknown.length > 0)
    command.error(`error: no bench ${unknown.join(', ')}; there are: ${known.join(', ')}`);
  for (const name of wanted) await runBench(name, options);
}

/** `proxy --mode ipvs` is the bench ipvs. */
function namesOfMode(names: readonly string[], mode: string): string[] {
  const bench = modeBenches.get(mode);
  if (names.join() !== 'proxy') command.error('error: --mode is for the bench proxy');
  if (bench === undefined)
    return command.error(
      `error: --mode: ${mode} is not measured; there are: ${[...modeBenches.keys()].join(', ')}`,
    );
  return [bench];
}

function benchNames(): string[] {
  const files = readdirSync(import.meta.dirname).filter(
    (file) => file.endsWith('.ts') && !notBenches.includes(file),
  );
  return files.map((file) => file.slice(0, -'.ts'.length)).toSorted();
}

async function loadBench(name: string): Promise<Bench> {
  return import(`./${name}.ts`);
}

async function listBenches(names: readonly string[]): Promise<void> {
  const width = Math.max(...names.map((name) => name.length));
  for (const name of names) console.log(`${name.padEnd(width)}  ${(await loadBench(name)).description}`);
}

async function runBench(name: string, options: Options): Promise<void> {
  const bench = await loadBench(name);
  const frame = new RecordingFrame({
    quick: options.quick,
    progress: (text) => console.error(`${name}: ${text}`),
  });
  await bench.run(frame);
  if (options.entries) console.log(JSON.stringify(frame.entries));
  else if (options.json) for (const line of renderJson(name, frame.entries)) console.log(line);
  else
    console.log(
      `${name}: ${bench.description}\n${renderTable(frame.entries)}\n${renderVerdict(frame.entries)}\n`,
    );
  if (options.record) record(name, bench, frame);
}

function record(name: string, { description }: Bench, { entries, kernel }: RecordingFrame): void {
  const occasion = {
    date: new Date().toISOString().slice(0, 10),
    command: `npm run bench -- ${name === 'ipvs' ? 'proxy --mode ipvs' : name}`,
    kernel: kernel ?? `${type()} ${release()}`,
    cores: availableParallelism(),
    node: process.version,
  };
  const document = readFileSync(recordUrl, 'utf8');
  writeFileSync(recordUrl, recordSection(document, name, { description, entries, occasion }));
}
