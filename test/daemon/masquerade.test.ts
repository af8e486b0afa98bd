import test from 'ava';
import { masqueradeLayout } from '../../daemon/masquerade.ts';

test('a node masquerades, unless told not to, and has no chain that only accepts', (t) => {
  const chains = (options: Parameters<typeof masqueradeLayout>[0]) =>
    masqueradeLayout(options).chains.map(({ name }) => name);
  t.deepEqual(chains({ masquerade: true }), ['postrouting', 'tunnels']);
  t.deepEqual(chains({ masquerade: true, random: false }), ['postrouting', 'tunnels']);
  t.deepEqual(chains({ masquerade: false }), ['tunnels']);
});
