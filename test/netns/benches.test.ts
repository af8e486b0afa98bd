import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';

// Benches run once with every test run, so that they cannot rot; how fast they are is not looked at here.

const directory = join(import.meta.dirname, '../../bench');
const names = readdirSync(directory)
  .filter((file) => file.endsWith('.ts') && !['main.ts', 'frame.ts'].includes(file))
  .map((file) => file.slice(0, -'.ts'.length));

for (const name of names) {
  test.serial(`the bench ${name} runs and finds figures`, async (t) => {
    const main = join(directory, 'main.ts');
    const { stdout } = await promisify(execFile)(process.execPath, [main, name, '--quick', '--json']);
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    t.true(
      lines.some((line) => line.bench === name && Number.isFinite(line.value) && line.unit !== undefined),
    );
    t.true(lines.every((line) => line.missing !== undefined || Number.isFinite(line.value)));
  });
}
