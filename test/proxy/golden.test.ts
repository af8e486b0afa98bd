import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { env } from 'node:process';
import test from 'ava';
import { runScript } from './script.ts';

// Objects in, views and elements out. REWRITE=1 writes what comes out into the scripts; then review the difference.

const folder = join(import.meta.dirname, 'golden');

for (const file of readdirSync(folder)) {
  test(`the script ${file} comes out as written`, (t) => {
    const path = join(folder, file);
    const text = readFileSync(path, 'utf8');
    const out = runScript(text);
    if (env.REWRITE === '1') writeFileSync(path, out);
    t.is(out, env.REWRITE === '1' ? out : text);
  });
}
