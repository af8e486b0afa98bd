import test from 'ava';
import type { IptablesRow } from '../../../cni/iptables/layout.ts';
import { iptablesKey, parseIptablesSave, renderRemoval, renderRestore } from '../../../cni/iptables/rules.ts';

const accept: IptablesRow = { family: 4, chain: 'FAIRLEAD-ACCEPT', rule: '-s 10.1.0.5/32 -j ACCEPT' };
const admin: IptablesRow = {
  family: 4,
  chain: 'FAIRLEAD-ADMIN',
  rule: '-s 10.1.0.5/32 -j CNI-ADMIN',
  needs: 'CNI-ADMIN',
};
const empty = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [1:2]
-A FORWARD -m comment --comment "of others" -j ACCEPT
COMMIT
`;

function creating(rows: readonly IptablesRow[]) {
  return rows.map((wanted) => ({ kind: 'create' as const, key: iptablesKey(wanted), wanted }));
}

function name(row: IptablesRow): string {
  return iptablesKey(row).split(' ')[2] ?? '';
}

/** What the kernel then has, as iptables-save prints it. */
const full = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [1:2]
:CNI-ADMIN - [0:0]
:FAIRLEAD-ACCEPT - [0:0]
:FAIRLEAD-ADMIN - [0:0]
:FAIRLEAD-FORWARD - [0:0]
-A FORWARD -m comment --comment "fairlead firewall" -j FAIRLEAD-FORWARD
-A FAIRLEAD-ACCEPT -s 10.1.0.5/32 -m comment --comment ${name(accept)} -j ACCEPT
-A FAIRLEAD-ACCEPT -s 10.1.0.9/32 -m comment --comment "by hand" -j ACCEPT
-A FAIRLEAD-FORWARD -j FAIRLEAD-ADMIN
-A FAIRLEAD-FORWARD -j FAIRLEAD-ACCEPT
COMMIT
`;

test('the first row brings chains and jumps along', (t) => {
  const text = renderRestore(creating([admin, accept]), parseIptablesSave(empty, 4));
  t.is(
    text,
    `*filter
:FAIRLEAD-ADMIN - [0:0]
:FAIRLEAD-ACCEPT - [0:0]
:FAIRLEAD-FORWARD - [0:0]
:CNI-ADMIN - [0:0]
-F FAIRLEAD-FORWARD
-A FAIRLEAD-FORWARD -j FAIRLEAD-ADMIN
-A FAIRLEAD-FORWARD -j FAIRLEAD-ACCEPT
-I FORWARD -m comment --comment "fairlead firewall" -j FAIRLEAD-FORWARD
-A FAIRLEAD-ADMIN -s 10.1.0.5/32 -m comment --comment ${name(admin)} -j CNI-ADMIN
-A FAIRLEAD-ACCEPT -s 10.1.0.5/32 -m comment --comment ${name(accept)} -j ACCEPT
COMMIT
`,
  );
});

test('a chain that is there is not named: it would be emptied', (t) => {
  const text = renderRestore(creating([admin]), parseIptablesSave(full, 4)) ?? '';
  t.deepEqual(text.split('\n').slice(1, -2), [
    `-A FAIRLEAD-ADMIN -s 10.1.0.5/32 -m comment --comment ${name(admin)} -j CNI-ADMIN`,
  ]);
});

test('rows are read by their comments, and rules without one of ours are not rows', (t) => {
  const { rows, chains } = parseIptablesSave(full, 4);
  t.deepEqual([...rows.keys()], [iptablesKey(accept)]);
  t.true(chains.has('filter CNI-ADMIN'));
});

test('a row is removed in the words of the kernel, and one that is gone is not', (t) => {
  const state = parseIptablesSave(full, 4);
  const removing = [accept, admin].map((actual) => ({
    kind: 'delete' as const,
    key: iptablesKey(actual),
    actual,
  }));
  t.is(
    renderRestore(removing, state),
    `*filter\n-D FAIRLEAD-ACCEPT -s 10.1.0.5/32 -m comment --comment ${name(accept)} -j ACCEPT\nCOMMIT\n`,
  );
  t.is(renderRestore(removing, parseIptablesSave(empty, 4)), undefined);
  t.is(renderRestore([], state), undefined);
});

test('removal takes jumps, then all chains, and leaves those of others', (t) => {
  t.is(
    renderRemoval(parseIptablesSave(full, 4)),
    `*filter
-D FORWARD -m comment --comment "fairlead firewall" -j FAIRLEAD-FORWARD
-F FAIRLEAD-ADMIN
-F FAIRLEAD-ACCEPT
-F FAIRLEAD-FORWARD
-X FAIRLEAD-ADMIN
-X FAIRLEAD-ACCEPT
-X FAIRLEAD-FORWARD
COMMIT
`,
  );
  t.is(renderRemoval(parseIptablesSave(empty, 4)), undefined);
});
