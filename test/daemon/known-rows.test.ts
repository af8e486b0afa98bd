import test from 'ava';
import fc from 'fast-check';
import { reconcile } from '../../core/reconcile.ts';
import { type Change, type Failure, layer, type Plan, type Table } from '../../core/rows.ts';
import { vxlanBackend } from '../../daemon/backend/vxlan.ts';
import { advance } from '../../daemon/known-rows.ts';
import type { Lease } from '../../daemon/lease.ts';
import { type NodePlan, planNode } from '../../daemon/node-plan.ts';
import { cidr, hostCidr, ip } from './golden.ts';

/** A table in memory; it counts how often it is read. */
class MemoryTable implements Table<string, unknown> {
  readonly name: string;
  readonly rows = new Map<string, unknown>();
  reads = 0;

  constructor(name: string) {
    this.name = name;
  }

  same(wanted: unknown, actual: unknown): boolean {
    return JSON.stringify(wanted) === JSON.stringify(actual);
  }

  async read(): Promise<Map<string, unknown>> {
    this.reads += 1;
    return new Map(this.rows);
  }

  async write(changes: readonly Change<string, unknown>[]): Promise<Failure<string>[]> {
    for (const change of changes) {
      if (change.kind === 'delete') this.rows.delete(change.key);
      else this.rows.set(change.key, change.wanted);
    }
    return [];
  }
}

const names = ['neighbors', 'fdb', 'routes', 'nft'] as const;
const backend = vxlanBackend(
  {
    ...{ type: 'vxlan', vni: 1, port: 8472, learning: false, directRouting: false, gbp: false },
    checksumOffload: 'auto',
  },
  '6.1.0',
);

function lease(n: number, mac: number): Lease {
  return {
    key: `node-${n}`,
    subnets: { 4: cidr(`10.244.${n >> 1}.${(n & 1) * 128}/25`) },
    publicIps: { 4: ip(`192.0.2.${1 + (mac % 3)}`) },
    backendType: mac === 7 ? 'host-gw' : 'vxlan',
    backendData: { 4: { VNI: 1, VtepMAC: `02:00:00:00:00:0${mac}` } },
  };
}

function planOf(leases: ReadonlyMap<string, Lease>): NodePlan {
  const self = { ...lease(0, 0), key: 'self', subnets: { 4: cidr('10.244.200.0/24') } };
  const addresses = { 4: hostCidr('192.0.2.200/24') };
  const underlay = { device: 'eth0', mtuBytes: 1500, addresses, publicIps: {} };
  const networks = { 4: cidr('10.244.0.0/16') };
  return planNode({ nodeName: 'self', self, leases, networks, underlay, sysctls: new Map() }, backend);
}

const layersOf = (tables: readonly MemoryTable[], plan: NodePlan): Plan =>
  tables.map((table, at) => layer(table, plan[names[at] ?? 'routes'] as ReadonlyMap<string, unknown>));

const events = fc.array(
  fc.record({ n: fc.integer({ min: 1, max: 9 }), mac: fc.integer({ min: 0, max: 7 }), goes: fc.boolean() }),
  { maxLength: 12 },
);

test('after any changes of leases the tables hold what the whole plan says, and nothing was read', async (t) => {
  await fc.assert(
    fc.asyncProperty(events, async (all) => {
      const tables = names.map((name) => new MemoryTable(name));
      const leases = new Map<string, Lease>();
      let known = layersOf(tables, planOf(leases));
      await reconcile(known);
      for (const { n, mac, goes } of all) {
        if (goes) leases.delete(`node-${n}`);
        else leases.set(`node-${n}`, lease(n, mac));
        const next = layersOf(tables, planOf(leases));
        t.deepEqual((await advance(known, next))?.failures, []);
        known = next;
      }
      const whole = planOf(new Map([...leases].map(([key, one]) => [key, structuredClone(one)])));
      for (const [at, name] of names.entries())
        t.deepEqual(
          new Map([...(tables[at]?.rows ?? [])].sort()),
          new Map<string, unknown>([...whole[name]].sort()),
          name,
        );
      t.deepEqual([...new Set(tables.map(({ reads }) => reads))], [1]);
    }),
    { numRuns: 60 },
  );
});

test('one node that joins is its own rows, and one that leaves as well', async (t) => {
  const tables = names.map((name) => new MemoryTable(name));
  const leases = new Map(Array.from({ length: 100 }, (_, n) => [`node-${n}`, lease(n, 1)] as const));
  const before = layersOf(tables, planOf(leases));
  await reconcile(before);
  const joined = layersOf(tables, planOf(new Map([...leases, ['node-120', lease(120, 2)]])));
  t.is((await advance(before, joined))?.writes, 4, 'neighbour, forwarding entry, route and sender');
  t.is((await advance(joined, before))?.writes, 4);
  t.is((await advance(before, layersOf(tables, planOf(leases))))?.writes, 0);
});

test('plans of other tables are not followed', async (t) => {
  const tables = names.map((name) => new MemoryTable(name));
  const layers = layersOf(tables, planOf(new Map()));
  t.is(await advance(layers, layers.slice(1)), undefined);
});
