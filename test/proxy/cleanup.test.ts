import test from 'ava';
import { removeUntilGone } from '../../proxy/cleanup.ts';

/** Fails so often before it succeeds. */
function failing(times: number, name: string) {
  let left = times;
  return async () => {
    left -= 1;
    if (left >= 0) throw new Error(`${name}: another program holds the lock`);
    return [name];
  };
}

test('what cannot be removed is tried again until it is gone, and holds up nothing else', async (t) => {
  const heard: string[] = [];
  const { signal } = new AbortController();
  await removeUntilGone([failing(2, 'chains'), failing(0, 'servers'), async () => []], {
    signal,
    onRemoved: (removed) => heard.push(removed.join()),
    onFailure: ({ message }, isNew) => heard.push(isNew ? message : 'again'),
    firstRetryMs: 10,
  });
  t.deepEqual(heard.toSorted(), ['again', 'chains', 'chains: another program holds the lock', 'servers']);
  t.is(heard.at(-1), 'chains');
});

test('it is given up when nobody wants it any more', async (t) => {
  const stop = new AbortController();
  const onFailure = () => stop.abort();
  const options = { signal: stop.signal, onRemoved: () => t.fail(), onFailure };
  await removeUntilGone([failing(9, 'chains')], options);
  t.true(stop.signal.aborted);
});
