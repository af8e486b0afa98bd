import test from 'ava';
import { isNotFound, runProgram } from '../../kernel/program.ts';

const timeoutMs = 60_000;

test('a program gets its input, and says what it has to say', async (t) => {
  const words = ['/bin/sh', '-c', 'cat; echo "to $LC_ALL" >&2; exit 3'];
  t.deepEqual(await runProgram(words, { input: 'a line\n', timeoutMs }), {
    code: '3',
    stdout: 'a line\n',
    stderr: 'to C\n',
  });
});

test('words of the caller are nothing but words', async (t) => {
  const { stdout } = await runProgram(['/bin/echo', '$(id)', '; ls', '"'], { timeoutMs });
  t.is(stdout, '$(id) ; ls "\n');
});

test('a program that is not there is one, also where it was to be led to', async (t) => {
  const enters = [[], ['/nowhere/enter'], ['/usr/bin/env', 'PATH=/nowhere']];
  for (const enter of enters) t.true(isNotFound(await runProgram(['no-such-program'], { timeoutMs, enter })));
  t.false(isNotFound(await runProgram(['/bin/false'], { timeoutMs })));
});

test('one that does not end is ended', async (t) => {
  const { code } = await runProgram(['/bin/sleep', '600'], { timeoutMs: 100 });
  t.is(code, 'SIGKILL');
});

test('one that reads nothing of a long input ends as it likes', async (t) => {
  const input = 'x'.repeat(4 << 20);
  t.is((await runProgram(['/bin/true'], { input, timeoutMs })).code, '0');
});

test('much is read to its end', async (t) => {
  const { code, stdout } = await runProgram(['/usr/bin/head', '-c', '5000000', '/dev/zero'], { timeoutMs });
  t.is(code, '0');
  t.is(stdout.length, 5_000_000);
});
