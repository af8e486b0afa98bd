import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { env } from 'node:process';
import test from 'ava';
import { runScript, type ScriptPlanner } from './script.ts';

/** One test for each script of a folder. REWRITE=1 writes what comes out into the scripts; then review the difference. */
export function testScripts(folder: string, newPlanner?: () => ScriptPlanner): void {
  for (const file of readdirSync(folder)) {
    test(`the script ${file} comes out as written`, (t) => {
      const path = join(folder, file);
      const text = readFileSync(path, 'utf8');
      const out = runScript(text, newPlanner?.());
      if (env.REWRITE === '1') writeFileSync(path, out);
      t.is(out, env.REWRITE === '1' ? out : text);
    });
  }
}
