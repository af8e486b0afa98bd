import test from 'ava';
import fc from 'fast-check';
import type { Cidr, Family, Ip } from '../../core/address.ts';
import { type Flow, flowStatus } from '../../kernel/conntrack.ts';
import { isFlowOf } from '../../kernel/netlink/conntrack/flow.ts';
import { protocolNumbers } from '../../proxy/protocol.ts';
import { planFlowFilters, StaleIndex } from '../../proxy/stale-index.ts';
import type { Frontend, ServicePortView } from '../../proxy/view.ts';

const VIP = '10.96.0.1' as Ip;
const NODE = '192.0.2.1' as Ip;
const clusterIp = { kind: 'clusterIP', ip: VIP, port: 53 } as const;
const nodePort = { kind: 'nodePort', port: 30053 } as const;

/** A port of service `default/NAME` with endpoints 10.0.0.N:5353. */
function port(
  name: string,
  frontends: readonly Frontend[],
  endpoints: readonly number[],
  more: Partial<ServicePortView> = {},
): ServicePortView {
  return {
    name: `default/${name}:dns`,
    family: 4,
    protocol: 'udp',
    frontends,
    clusterEndpoints: [],
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    hasAnyEndpoints: endpoints.length > 0,
    balancing: 'random',
    flowEndpoints: endpoints.map((host) => ({ ip: `10.0.0.${host}` as Ip, port: 5353 })),
    ...more,
  };
}

/** A flow to `dst:dport` that ends at 10.0.0.`end`, or (undefined) where it was sent. */
function flow(dst: Ip, dport: number, end: number | undefined, protocol: 'udp' | 'tcp' = 'udp'): Flow {
  const reply = end === undefined ? { src: dst, sport: dport } : { src: `10.0.0.${end}` as Ip, sport: 5353 };
  return {
    family: 4,
    protocol: protocolNumbers[protocol],
    original: { src: '10.0.0.99' as Ip, sport: 4000, dst, dport },
    reply: { ...reply, dst: '10.0.0.99' as Ip, dport: 4000 },
    status: end === undefined ? 0 : flowStatus.dnat,
    mark: 0,
    zone: 0,
  };
}

function changed(name: string, ...ports: ServicePortView[]) {
  return new Map([[`default/${name}`, ports]]);
}

/** Which of the flows are stale after what was told since the last question. */
function stale(index: StaleIndex, ...flows: Flow[]): number[] {
  const suspects = index.take();
  const filters = planFlowFilters(4, suspects);
  return flows.flatMap((one, number) => {
    const isStale = index.isStale(one, suspects);
    if (isStale && !filters.some((filter) => isFlowOf(one, filter)))
      throw new Error('a stale flow that nobody asks for');
    return isStale ? [number] : [];
  });
}

test('flows to an endpoint that does not serve any more are stale, those to others are not', (t) => {
  const index = new StaleIndex();
  index.update(changed('dns', port('dns', [clusterIp, nodePort], [1, 2])));
  t.deepEqual(stale(index, flow(VIP, 53, 1), flow(NODE, 30053, 2)), []);
  index.update(changed('dns', port('dns', [clusterIp, nodePort], [2])));
  t.deepEqual(
    stale(
      index,
      flow(VIP, 53, 1),
      flow(VIP, 53, 2),
      flow(NODE, 30053, 1),
      flow(NODE, 30053, 2),
      flow(VIP, 54, 1),
    ),
    [0, 2],
  );
});

test('flows from before a Service, or without one of its endpoints, are in a black hole', (t) => {
  const index = new StaleIndex();
  index.update(changed('dns', port('dns', [clusterIp, nodePort], [1])));
  t.deepEqual(
    stale(index, flow(VIP, 53, undefined), flow(NODE, 30053, undefined), flow(NODE, 53, undefined)),
    [0, 1],
  );
  index.update(changed('dns', port('dns', [clusterIp, nodePort], [])));
  t.deepEqual(stale(index, flow(VIP, 53, 1), flow(VIP, 53, undefined)), [0, 1]);
});

test('of a Service that is gone, flows that were translated are stale; others to its address never were ours', (t) => {
  const index = new StaleIndex();
  index.update(changed('dns', port('dns', [clusterIp, nodePort], [1])));
  index.take();
  index.update(changed('dns'));
  t.deepEqual(
    stale(
      index,
      flow(VIP, 53, 1),
      flow(VIP, 53, undefined),
      flow(NODE, 30053, 1),
      flow(NODE, 30053, undefined),
    ),
    [0, 2],
  );
});

test('a change of a frontend, or of the target port, is enough; no change is none', (t) => {
  const index = new StaleIndex();
  const one = port('dns', [clusterIp], [1]);
  index.update(changed('dns', one));
  index.take();
  index.update(changed('dns', { ...one, clusterEndpoints: [], affinitySeconds: 3 }));
  t.false(index.hasSuspects);
  index.update(changed('dns', port('dns', [{ ...clusterIp, port: 54 }], [1])));
  t.deepEqual(stale(index, flow(VIP, 53, 1), flow(VIP, 54, 1), flow(VIP, 54, undefined)), [0, 2]);
});

test('a frontend that moves to another Service is judged by its endpoints', (t) => {
  const index = new StaleIndex();
  index.update(changed('a', port('a', [nodePort], [1])));
  index.take();
  index.update(new Map([...changed('b', port('b', [nodePort], [2])), ...changed('a', port('a', [], [1]))]));
  t.deepEqual(stale(index, flow(NODE, 30053, 1), flow(NODE, 30053, 2)), [0]);
});

test('a node port is one of the node’s addresses, and a Service’s own address comes first', (t) => {
  const index = new StaleIndex();
  index.setNode({ nodePortIps: { 4: [NODE], 6: [] }, serviceCidrs: [] });
  index.update(changed('other', port('other', [{ ...clusterIp, port: 30053 }], [7])));
  index.take();
  index.update(changed('dns', port('dns', [nodePort], [1])));
  const elsewhere = '198.51.100.7' as Ip;
  t.deepEqual(
    stale(
      index,
      flow(NODE, 30053, 9),
      flow(elsewhere, 30053, undefined),
      flow(VIP, 30053, 7),
      flow(VIP, 30053, 8),
    ),
    [0],
  );
  index.setNode({ nodePortIps: { 4: [NODE, elsewhere], 6: [] }, serviceCidrs: [] });
  t.deepEqual(stale(index, flow(elsewhere, 30053, undefined)), [0]);
  index.setNode({ nodePortIps: { 4: [NODE, elsewhere], 6: [] }, serviceCidrs: [] });
  t.false(index.hasSuspects);
});

test('TCP flows end only where that is wanted, and only those to endpoints that are gone', (t) => {
  const tcp = (...endpoints: number[]) => port('web', [clusterIp], endpoints, { protocol: 'tcp' });
  const plain = new StaleIndex();
  plain.update(changed('web', tcp(1)));
  t.false(plain.hasSuspects);
  const index = new StaleIndex({ resetTcp: true });
  index.update(changed('web', tcp(1, 2)));
  t.deepEqual(stale(index, flow(VIP, 53, 9, 'tcp'), flow(VIP, 53, undefined, 'tcp')), []);
  index.update(changed('web', tcp(2)));
  t.deepEqual(stale(index, flow(VIP, 53, 1, 'tcp'), flow(VIP, 53, 2, 'tcp'), flow(VIP, 53, 1)), [0]);
  // The Service goes, and its pods may go on.
  index.update(changed('web'));
  t.deepEqual(stale(index, flow(VIP, 53, 2, 'tcp'), flow(VIP, 53, 1, 'tcp')), []);
  index.update(changed('web', { ...tcp(1), flowEndpoints: undefined }));
  t.false(index.hasSuspects);
});

test('what was taken and given back is asked for again, with what came meanwhile', (t) => {
  const index = new StaleIndex({ resetTcp: true });
  const tcp = (...endpoints: number[]) => port('web', [clusterIp], endpoints, { protocol: 'tcp' });
  index.update(changed('web', tcp(1, 2, 3)));
  index.take();
  index.update(changed('web', tcp(2, 3)));
  const suspects = index.take();
  index.update(changed('web', tcp(3)));
  index.giveBack(suspects);
  t.deepEqual(stale(index, ...[1, 2, 3].map((end) => flow(VIP, 53, end, 'tcp'))), [0, 1]);
});

test('a flow to a cluster IP that no Service has is an orphan, if it was sent on', (t) => {
  const index = new StaleIndex();
  index.setNode({ nodePortIps: { 4: 'all', 6: 'all' }, serviceCidrs: ['10.96.0.0/16' as Cidr] });
  index.update(changed('dns', port('dns', [clusterIp, nodePort], [1])));
  const orphans = [
    flow('10.96.0.2' as Ip, 53, 1),
    flow('10.96.0.2' as Ip, 53, undefined),
    flow('10.96.0.2' as Ip, 53, 1, 'tcp'),
    flow('198.51.100.1' as Ip, 53, 1),
    flow(VIP, 53, 9),
    flow(VIP, 54, 9),
  ].flatMap((one, number) => (index.isLeftOver(one) ? [number] : []));
  t.deepEqual(orphans, [0, 5]);
});

test('a connection to an endpoint that went while nobody watched is left over, where connections are reset', (t) => {
  const tcp = port('web', [clusterIp, nodePort], [1], { protocol: 'tcp' });
  const flows = [
    flow(VIP, 53, 1, 'tcp'),
    flow(VIP, 53, 2, 'tcp'),
    flow(VIP, 53, undefined, 'tcp'),
    flow(NODE, 30053, 2, 'tcp'),
    flow('198.51.100.1' as Ip, 30053, 2, 'tcp'),
    // Of Services that nobody knows nothing is known.
    flow(VIP, 54, 2, 'tcp'),
  ];
  const leftOver = (resetTcp: boolean) => {
    const index = new StaleIndex({ resetTcp });
    const serviceCidrs = ['10.96.0.0/16' as Cidr];
    index.setNode({ nodePortIps: { 4: [NODE], 6: [] }, serviceCidrs });
    index.update(changed('web', tcp));
    return flows.flatMap((one, number) => (index.isLeftOver(one) ? [number] : []));
  };
  t.deepEqual(leftOver(true), [1, 3]);
  t.deepEqual(leftOver(false), []);
});

test('many frontends are one question', (t) => {
  const index = new StaleIndex();
  const ports = Array.from({ length: 100 }, (_, number) =>
    port(`s${number}`, [{ ...clusterIp, port: number + 1 }], [1]),
  );
  for (const [number, one] of ports.entries()) index.update(changed(`s${number}`, one));
  t.deepEqual(planFlowFilters(4, index.take()), [{ family: 4, protocol: 17 }]);
});

test('whatever the order of changes, a flow is stale when no Service that has its frontend serves its end', (t) => {
  const family: Family = 4;
  const frontends = [clusterIp, { ...clusterIp, port: 54 }, nodePort] as const;
  const service = fc.record({
    name: fc.constantFrom('a', 'b', 'c'),
    frontends: fc.subarray([...frontends]),
    endpoints: fc.subarray([1, 2, 3]),
  });
  const ends = [1, 2, 3, 4];
  const flows = ends.flatMap((end) => [flow(VIP, 53, end), flow(VIP, 54, end), flow(NODE, 30053, end)]);
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.array(service, { maxLength: 8 }), (changes) => {
        const index = new StaleIndex();
        const now = new Map<string, ServicePortView>();
        const touched = new Set<Frontend>();
        for (const { name, frontends: its, endpoints } of changes) {
          for (const frontend of [...(now.get(name)?.frontends ?? []), ...its]) touched.add(frontend);
          now.set(name, port(name, its, endpoints));
          index.update(changed(name, port(name, its, endpoints)));
        }
        const suspects = index.take();
        for (const one of flows) {
          const [frontend] = frontends.filter(({ port: number }) => number === one.original.dport);
          if (frontend === undefined || !touched.has(frontend)) continue;
          const serves = [...now.values()].some(
            (view) =>
              view.frontends.includes(frontend) && view.flowEndpoints?.some(({ ip }) => ip === one.reply.src),
          );
          // What changed and changed back may be looked at or not: it is never stale when it is served.
          if (index.isStale(one, suspects) === serves) return false;
        }
        return planFlowFilters(family, suspects).length <= 8;
      }),
    ),
  );
});
