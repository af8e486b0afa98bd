import test from 'ava';
import { KubeClient } from '../../kube/client.ts';
import { LEASES, type V1Lease } from '../../kube/types.ts';
import { KillableServer } from './killable.ts';
import { configured, until } from './server.ts';

const WRITERS = 8;
const ROUNDS = 3;
const WRITING_MS = 400;

/** Creates leases until the server is gone. The versions that it acknowledged, by name. */
async function writeUntilGone(
  client: KubeClient,
  round: number,
  acknowledged: Map<string, string>,
): Promise<void> {
  const write = async (writer: number) => {
    for (let i = 0; ; i += 1) {
      const name = `r${round}-w${writer}-${i}`;
      const created = await client.create<V1Lease>(LEASES, configured(name, 'default'));
      acknowledged.set(name, created.metadata?.resourceVersion ?? '');
    }
  };
  await Promise.allSettled(Array.from({ length: WRITERS }, (_, writer) => write(writer)));
}

test('what a killed server had acknowledged is there when it is back, and watches go on from before', async (t) => {
  await using server = await KillableServer.start();
  const acknowledged = new Map<string, string>();
  let from = '1';
  for (let round = 0; round < ROUNDS; round += 1) {
    using client = new KubeClient(server.config);
    const before = new Map(acknowledged);
    const writing = writeUntilGone(client, round, acknowledged);
    await new Promise((resolve) => setTimeout(resolve, WRITING_MS));
    await until(() => acknowledged.size > before.size + 10, 'writes');
    await server.kill();
    await writing;
    t.true(acknowledged.size > before.size + 10, `${acknowledged.size - before.size} writes`);
    await server.start();

    const { items, metadata } = await client.list<V1Lease>(LEASES);
    const stored = new Map(
      items.map(({ metadata: meta }) => [meta?.name ?? '', meta?.resourceVersion ?? '']),
    );
    for (const [name, version] of acknowledged) t.is(stored.get(name), version, name);

    const seen = new Map<string, string>();
    const watch = client.watch<V1Lease>(LEASES, { resourceVersion: from, timeoutSeconds: 3 });
    for await (const { type, object } of watch) {
      t.is(type, 'ADDED');
      seen.set(object.metadata?.name ?? '', object.metadata?.resourceVersion ?? '');
    }
    t.deepEqual(seen, new Map([...stored].filter(([name]) => name.startsWith(`r${round}-`)).sort(byVersion)));
    from = metadata.resourceVersion ?? '';
  }
});

const byVersion = ([, a]: [string, string], [, b]: [string, string]) => Number(a) - Number(b);
