import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { type Family, families } from '../../core/address.ts';
import { readGeneration } from '../../kernel/nftables.ts';
import { ServiceCounters } from '../../proxy/counters.ts';
import { ConntrackBytes, startAccounting } from '../../proxy/counters-bytes.ts';
import { type NftablesBackend, openNftables } from '../../proxy/nftables/backend.ts';
import type { Frontend } from '../../proxy/view.ts';
import { labName } from './lab.ts';
import { openNftSpace } from './nftables-space.ts';
import { BackendLab, policy, type Source, type TestService, viewsOf } from './proxy-backend-lab.ts';
import { nft } from './proxy-lab.ts';

/* Connections and bytes of Services, counted by the kernel, as real packets. */

let lab: BackendLab;
let current: NftablesBackend | undefined;
test.before(async () => {
  lab = await BackendLab.open(labName());
});
test.after.always(async () => {
  current?.[Symbol.dispose]();
  await lab?.[Symbol.asyncDispose]();
});

const web: TestService = { number: 1, pods: ['one', 'two'] };
const SETTLE_MS = 100;
const SAME_TIMES = 10;
const ROUNDS = 40;
const kinds = ['clusterIP', 'externalIP', 'loadBalancerIP', 'nodePort'] as const;

/** The bytes of some packets with their headers, and a line or two. */
function isRequest(bytes: number): boolean {
  return bytes > 200 && bytes < 2000;
}

/** Another process; what is in the kernel stays. */
async function start(services: readonly TestService[]): Promise<NftablesBackend> {
  current?.[Symbol.dispose]();
  current = openNftables({ namespaceFd: lab.namespace.fd, policy, counters: true });
  await current.updateNode(lab.facts());
  await lab.write(current, services);
  return current;
}

async function removeTables(): Promise<void> {
  for (const family of ['ip', 'ip6'])
    await nft(lab.lab.node.namespace, ['delete', 'table', family, 'fairlead-proxy']).catch(() => {});
}

/** New connections at each kind of frontend of service 1, of TCP. */
async function counts({ connections }: NftablesBackend, family: Family): Promise<number[]> {
  await connections.read();
  return kinds.map((kind) => connections.to(family, frontendOf(family, kind), 'tcp'));
}

function frontendOf(family: Family, kind: Frontend['kind']): Frontend {
  const { ip, port } = lab.target(family, kind, 1);
  return kind === 'nodePort' ? { kind, port } : { kind, ip, port };
}

async function connect(source: Source, family: Family, kind: Frontend['kind'], count: number): Promise<void> {
  const outcomes = await lab.connect(source, lab.target(family, kind, 1), count);
  if (!outcomes.every(({ ok }) => ok)) throw new Error(JSON.stringify(outcomes.find(({ ok }) => !ok)));
}

for (const family of families) {
  test.serial(
    `IPv${family}: each connection counts one, whatever the frontend and whoever asks`,
    async (t) => {
      await removeTables();
      const backend = await start([web]);
      t.deepEqual(await counts(backend, family), [0, 0, 0, 0]);
      const before = backend.connections.to(family, frontendOf(family, 'clusterIP'), 'udp');
      for (const [index, kind] of kinds.entries()) {
        await connect('client', family, kind, 3 + index);
        await connect('node', family, kind, 1);
        await connect('outside', family, kind, 2);
      }
      t.deepEqual(await counts(backend, family), [6, 7, 8, 9]);
      const at = lab.target(family, 'clusterIP', 1);
      t.true((await lab.lab.from('client').datagram(at.ip, at.port, 30_000)).ok);
      await backend.connections.read();
      t.is(backend.connections.to(family, frontendOf(family, 'clusterIP'), 'udp'), before + 1);
      t.deepEqual(await counts(backend, family), [6, 7, 8, 9]);
    },
  );

  test.serial(
    `IPv${family}: counts go on when endpoints, layout and process change, and are no drift`,
    async (t) => {
      await removeTables();
      const backend = await start([web]);
      let expected = 0;
      const more = async (by: NftablesBackend, count: number) => {
        await connect('client', family, 'clusterIP', count);
        expected += count;
        t.is((await counts(by, family))[0], expected);
      };
      await more(backend, 4);
      t.false(await backend.isDisturbed());
      // The value of the frontend changes: a new element.
      await lab.update(backend, [{ ...web, pods: ['one', 'two', 'three'] }]);
      await more(backend, 3);
      await connect('client', family, 'clusterIP', 2);
      expected += 2;
      // Two changes without a reading between them, one of them to nobody at all.
      await lab.update(backend, [{ ...web, pods: [] }]);
      await lab.update(backend, [web]);
      await more(backend, 1);
      // Affinity takes another layout: the table is made anew.
      await lab.update(backend, [{ ...web, view: { affinitySeconds: 10 } }]);
      await more(backend, 2);
      t.is((await backend.replace(viewsOf([{ ...web, view: { affinitySeconds: 10 } }]))).writes, 0);
      t.is((await counts(backend, family))[0], expected);
      // Another process has what the kernel counts, which is as much as the table is old.
      const next = await start([{ ...web, view: { affinitySeconds: 10 } }]);
      const [count = 0] = await counts(next, family);
      await connect('client', family, 'clusterIP', 5);
      t.is((await counts(next, family))[0], count + 5);
      t.true(count >= 2);
    },
  );

  test.serial(`IPv${family}: counts are whole while frontends get new values all the time`, async (t) => {
    await removeTables();
    const backend = await start([web]);
    let isOver = false;
    const connects = async () => {
      for (let round = 0; round < ROUNDS; round += 1) await connect('client', family, 'clusterIP', 5);
      isOver = true;
    };
    const connecting = connects();
    for (let round = 0; !isOver; round += 1) {
      await lab.update(backend, [{ ...web, pods: round % 2 === 0 ? ['one'] : ['one', 'two'] }]);
      if (round % 16 === 0) await backend.connections.read();
      await sleep(1);
    }
    await connecting;
    t.is((await counts(backend, family))[0], 5 * ROUNDS);
  });

  test.serial(`IPv${family}: bytes are those of the connections, in both directions`, async (t) => {
    await removeTables();
    const backend = await start([web]);
    await startAccounting(lab.namespace.fd);
    using bytes = new ConntrackBytes({ namespaceFd: lab.namespace.fd });
    const views = viewsOf([web]);
    const [tcp] = (views.get('default/s1') ?? []).filter(
      (port) => port.family === family && port.protocol === 'tcp',
    );
    if (tcp === undefined) throw new Error('no port');
    /** Read until the last packets of connections that end are in it. */
    const settled = async (kind: Frontend['kind']) => {
      for (let last = '', times = 0; ; await sleep(SETTLE_MS)) {
        await bytes.read(views);
        const moved = bytes.of(tcp, kind);
        const text = JSON.stringify(moved ?? null);
        times = text === last ? times + 1 : 0;
        if (times === SAME_TIMES) return moved;
        last = text;
      }
    };
    await connect('client', family, 'clusterIP', 1);
    await sleep(SETTLE_MS);
    await bytes.read(views);
    t.is(bytes.of(tcp, 'clusterIP'), undefined);
    await connect('client', family, 'clusterIP', 1);
    const one = await settled('clusterIP');
    t.true(one && isRequest(one.original) && isRequest(one.reply), JSON.stringify(one));
    await connect('client', family, 'nodePort', 2);
    const two = await settled('nodePort');
    t.true(two && isRequest(two.original / 2) && isRequest(two.reply / 2), JSON.stringify(two));
    t.deepEqual(await settled('clusterIP'), one);
    await using counters = new ServiceCounters({
      bytes,
      connections: backend.connections,
      views: () => views,
      onFailure: ({ message }) => t.fail(message),
    });
    const text = await counters.text();
    t.regex(
      text,
      /bytes_total\{namespace="default",name="s1",port="tcp",protocol="TCP",frontend_kind="nodePort",direction="out"\} \d+/,
    );
    t.regex(
      text,
      /connections_total\{namespace="default",name="s1",port="tcp",protocol="TCP",frontend_kind="clusterIP"\} 2\n/,
    );
  });
}

test.serial('nft lists a table with counters, and its list loads again', async (t) => {
  const space = openNftSpace(t);
  using backend = openNftables({ namespaceFd: space.fd, policy, counters: true });
  await backend.replace(viewsOf([web]));
  const list = space.nft('list ruleset');
  t.regex(list, /10\.96\.0\.1 \. tcp \. 80 counter packets 0 bytes 0 : /);
  const elsewhere = openNftSpace(t);
  elsewhere.load(list);
  t.is(elsewhere.nft('list ruleset'), list);
  const before = await readGeneration(space.socket);
  using other = openNftables({ namespaceFd: space.fd, policy, counters: true });
  t.is((await other.replace(viewsOf([web]))).writes, 0);
  t.is(await readGeneration(space.socket), before);
});
