import test from 'ava';
import type { Family } from '../../../core/address.ts';
import { KernelError } from '../../../kernel/errors.ts';
import type { ForeignChanges } from '../../../kernel/nftables.ts';
import type { SyncResult } from '../../../proxy/backend.ts';
import { NftablesBackend, type TableOfFamily } from '../../../proxy/nftables/backend.ts';

const EOPNOTSUPP = 95;
const ENOBUFS = 105;

/** A table that says what it was asked, and fails as it is told. */
class FakeTable implements TableOfFamily {
  readonly problems = new Map<string, string>();
  readonly asked: string[] = [];
  readonly family: Family;
  errno: number | undefined;

  constructor(family: Family) {
    this.family = family;
  }

  async #sync(asked: string): Promise<SyncResult> {
    this.asked.push(asked);
    if (this.errno === undefined) return { writes: 1, failures: [] };
    const error = new KernelError('NFT_MSG_NEWCHAIN', this.errno);
    return { writes: 0, failures: [{ key: 'layout missing', kind: 'create', error }] };
  }

  replace = () => this.#sync('replace');
  update = () => this.#sync('update');
  updateNode = () => this.#sync('node');
  isDamaged = async () => false;
  readConnections = async () => {};
  connectionsTo = () => 0;
  forgetConnections = () => {};
}

function open() {
  const [v4, v6] = [new FakeTable(4), new FakeTable(6)];
  const told: string[] = [];
  const foreign = { mark: async () => {}, any: async () => false } as unknown as ForeignChanges;
  const onUnserved = ({ message }: Error) => told.push(message);
  const backend = new NftablesBackend([v4, v6], foreign, { stack: new DisposableStack(), onUnserved });
  return { v4, v6, told, backend };
}
const facts = { nodePortIps: { 4: [], 6: [] }, serviceCidrs: [] };

test('one family is served where the kernel has no nftables for the other, and that is told once', async (t) => {
  const { v4, v6, told, backend } = open();
  v6.errno = EOPNOTSUPP;
  for (const _ of [1, 2]) t.deepEqual(await backend.replace(new Map()), { writes: 1, failures: [] });
  t.deepEqual(await backend.update(new Map()), { writes: 1, failures: [] });
  t.deepEqual(await backend.updateNode(facts), { writes: 1, failures: [] });
  t.is(told.length, 1);
  t.regex(told[0] ?? '', /^IPv6 is not served: .*EOPNOTSUPP \(the kernel needs CONFIG_NF_TABLES_IPV6/);
  // Tried again at each full pass; when it works, it is as any other.
  v6.errno = undefined;
  t.deepEqual(await backend.replace(new Map()), { writes: 2, failures: [] });
  t.deepEqual(await backend.update(new Map()), { writes: 2, failures: [] });
  t.deepEqual(v6.asked, ['replace', 'replace', 'node', 'replace', 'update']);
  t.deepEqual(v4.asked, ['replace', 'replace', 'update', 'node', 'replace', 'update']);
});

test('what passes, what was served before, and what no family can do, are failures', async (t) => {
  const { v4, v6, told, backend } = open();
  v6.errno = ENOBUFS;
  t.is((await backend.replace(new Map())).failures.length, 1);
  v6.errno = undefined;
  t.is((await backend.replace(new Map())).failures.length, 0);
  v6.errno = EOPNOTSUPP;
  t.is((await backend.replace(new Map())).failures.length, 1);
  const none = open();
  for (const table of [none.v4, none.v6]) table.errno = EOPNOTSUPP;
  t.is((await none.backend.replace(new Map())).failures.length, 2);
  t.deepEqual([...told, ...none.told], []);
  t.is(v4.asked.length, 3);
});
