import test from 'ava';
import { parseCidr } from '../../core/address.ts';
import { healthzAnswer, openNodeMetrics, readyzAnswer } from '../../daemon/health.ts';
import { PassCounts } from '../../daemon/pass-counts.ts';
import { type DaemonStatus, renderStatus } from '../../daemon/status.ts';
import { podAddresses } from '../../daemon/subnets.ts';
import { leaseOf } from './golden.ts';

const subnet = parseCidr('10.244.1.0/24') ?? raise();
const status: DaemonStatus = {
  node: 'node-1',
  backend: 'vxlan',
  store: 'etcd',
  synced: true,
  ready: true,
  inLine: true,
  subnets: [subnet],
  freeAddresses: { [subnet]: 251 },
  peers: 2,
  unreachable: 1,
  passes: 9,
  idleSeconds: 4,
  writes: 12,
  repaired: 3,
  storeBehindSeconds: 17,
  problems: ['etcd: connection refused'],
};

function raise(): never {
  throw new Error('no address');
}

test('an agent that hangs is to be restarted; one whose store is away is not', (t) => {
  t.is(healthzAnswer(status).status, 200);
  const stuck = healthzAnswer({ idleSeconds: 301 });
  t.is(stuck.status, 503);
  t.regex(stuck.body, /301 seconds/);
});

test('a node is ready from the first complete pass on, and as long as the last one was complete', (t) => {
  const figures =
    'nodes reached: 2 of 3\nstore: not followed for 17 seconds\nfree addresses: 251 in 10.244.1.0/24\nrows repaired: 3\n';
  t.deepEqual(readyzAnswer(status), {
    status: 200,
    type: 'text/plain; charset=utf-8',
    body: `fairlead is ready\n${figures}etcd: connection refused\n`,
  });
  t.like(readyzAnswer({ ...status, ready: false, inLine: false, problems: ['no lease: x'] }), {
    status: 503,
    body: `fairlead is not ready yet\n${figures}no lease: x\n`,
  });
  const early = { ...status, inLine: false, problems: [], freeAddresses: {}, storeBehindSeconds: 0 };
  t.like(readyzAnswer(early), {
    status: 503,
    body: 'fairlead is not ready any more\nnodes reached: 2 of 3\nstore: followed\nfree addresses: none yet\nrows repaired: 3\n',
  });
});

test('a node that the kernel refused a row of is one that is not reached', (t) => {
  const lease = leaseOf({ n: 1 }, 'vxlan');
  const facts = { ...status, lease, leases: 4, peers: 3, network: undefined, underlay: undefined };
  const more = { counts: new PassCounts(), storeBehindMs: 0, freeAddresses: new Map([[subnet, 250]]) };
  t.like(renderStatus({ ...facts, ...more, refused: 1 }), {
    peers: 2,
    unreachable: 1,
    freeAddresses: { [subnet]: 250 },
  });
  t.like(renderStatus({ ...facts, ...more, refused: 0 }), { peers: 3, unreachable: 0 });
});

test('metrics are those of the moment', async (t) => {
  let now = status;
  const packets = { sent: 7, received: 8, no_route: 0, bad_sender: 3, malformed: 0, lost: 1 };
  const metrics = openNodeMetrics({
    status: () => now,
    freeAddresses: () => new Map([[subnet, 251]]),
    tunnelPackets: () => packets,
  });
  const values = async () => (await metrics.metrics()).split('\n').filter((line) => /^\w/.test(line));
  t.deepEqual(await values(), [
    'fairlead_node_ready 1',
    'fairlead_node_in_line 1',
    'fairlead_node_peers 2',
    'fairlead_node_peers_unreachable 1',
    'fairlead_node_store_behind_seconds 17',
    'fairlead_node_idle_seconds 4',
    'fairlead_node_problems 1',
    'fairlead_node_passes_total 9',
    'fairlead_node_rows_written_total 12',
    'fairlead_node_rows_repaired_total 3',
    'fairlead_node_free_addresses{subnet="10.244.1.0/24"} 251',
    ...Object.entries(packets).map(
      ([what, count]) => `fairlead_node_tunnel_packets_total{what="${what}"} ${count}`,
    ),
  ]);
  now = { ...status, repaired: 5, unreachable: 0 };
  const later = await values();
  t.true(later.includes('fairlead_node_rows_repaired_total 5'));
  t.true(later.includes('fairlead_node_peers_unreachable 0'));
});

test('what is written although nothing changed in the cluster was lost before', (t) => {
  const counts = new PassCounts();
  counts.begin();
  counts.wrote(7, new Set(['start']));
  counts.end('again');
  t.false(counts.inLine);
  counts.wrote(2, new Set(['kernel']));
  counts.end('done');
  t.true(counts.inLine);
  t.is(counts.repaired, 0, 'not in line before: the first pass had not ended');
  counts.wrote(3, new Set(['kernel', 'nftables']));
  counts.wrote(4, new Set(['kernel', 'leases']));
  t.is(counts.repaired, 3);
  t.is(counts.writes, 16);
  counts.end('partial');
  t.true(counts.inLine);
  counts.end(undefined);
  t.false(counts.inLine);
});

test('a subnet has addresses for pods: all but three', (t) => {
  t.is(podAddresses(subnet), 253);
  t.is(podAddresses(parseCidr('10.244.1.0/30') ?? raise()), 1);
});
