import test from 'ava';
import { masqueradeLayout } from '../../daemon/masquerade.ts';

test('a node masquerades and accepts what is forwarded, unless told not to', (t) => {
  const chains = (options: Parameters<typeof masqueradeLayout>[0]) =>
    masqueradeLayout(options).chains.map(({ name }) => name);
  const [guard = ''] = chains({ masquerade: false, forward: false });
  t.deepEqual(chains({ masquerade: true }), ['postrouting', 'forward', guard]);
  t.deepEqual(chains({ masquerade: false }), ['forward', guard]);
  t.deepEqual(chains({ masquerade: true, forward: false }), ['postrouting', guard]);
});
