import test from 'ava';
import { type IptablesBackend, openIptables } from '../../../proxy/iptables/backend.ts';
import { IptablesError } from '../../../proxy/iptables/program.ts';
import { defaultPolicy } from '../../../proxy/policy.ts';
import { FakePrograms } from './fake-programs.ts';

const policy = { ...defaultPolicy, localhostNodePorts: false };
const noTable = () =>
  new IptablesError("ip6tables: can't initialize ip6tables table `nat': Table does not exist", { code: '3' });

/** Both families are of one kernel here: only which of them are asked for counts. */
function open(programs: FakePrograms): { readonly backend: IptablesBackend; readonly told: string[] } {
  const told: string[] = [];
  const onUnserved = ({ message }: Error) => told.push(message);
  const backend = openIptables({ policy, programs, families: [4, 6], onUnserved, checkIntervalMs: 0 });
  return { backend, told };
}

const familiesOf = (backend: IptablesBackend) => [...new Set(backend.rules().map(({ family }) => family))];

for (const [family, other] of [
  [4, 6],
  [6, 4],
] as const) {
  test(`IPv${other} is served where IPv${family} cannot be, and that is told once, with the next step`, async (t) => {
    const programs = new FakePrograms();
    programs.missing.set(family, noTable());
    const { backend, told } = open(programs);
    for (const _ of [1, 2]) t.deepEqual((await backend.replace(new Map())).failures, []);
    t.deepEqual((await backend.update(new Map())).failures, []);
    t.deepEqual(familiesOf(backend), [other]);
    t.is(told.length, 1);
    t.regex(told[0] ?? '', new RegExp(`^IPv${family} is not served: .*module ip6?table_filter`));
    // What was loaded since is found at the next full pass.
    programs.missing.clear();
    await backend.replace(new Map());
    t.deepEqual(familiesOf(backend), [other, family]);
  });
}

test('a program that is not there is named', async (t) => {
  const programs = new FakePrograms();
  programs.missing.set(6, new IptablesError('ip6tables: there is no such program', { code: 'ENOENT' }));
  const { backend, told } = open(programs);
  await backend.replace(new Map());
  t.deepEqual(told, ['IPv6 is not served: ip6tables: there is no such program (install ip6tables)']);
});

test('a lock that others hold is waited for, and so is a family when there is no other', async (t) => {
  const programs = new FakePrograms();
  programs.missing.set(
    6,
    new IptablesError('Another app is currently holding the xtables lock', { code: '4' }),
  );
  const { backend, told } = open(programs);
  await t.throwsAsync(backend.replace(new Map()), { message: /xtables lock/ });
  for (const family of [4, 6] as const) programs.missing.set(family, noTable());
  await t.throwsAsync(open(programs).backend.replace(new Map()), { message: /^IPv4 is not served/ });
  t.deepEqual(told, []);
});
