import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'ava';
import { askStatus, type NodeStatus, serveStatus } from '../../cli/node-status.ts';
import { proxyLines } from '../../cli/proxy-status.ts';
import { renderNodeStatus } from '../../cli/status.ts';

const status: NodeStatus = {
  name: 'node-1',
  pid: 7,
  ready: true,
  startedAt: '2026-01-02T03:04:05.000Z',
  daemon: {
    ...{ backend: 'vxlan', subnets: ['10.244.1.0/24', 'fd00::/64'], peers: 2, problems: [] },
    freeAddresses: { '10.244.1.0/24': 252, 'fd00::/64': 9 },
  },
  proxy: {
    mode: 'nftables',
    synced: true,
    services: 3,
    endpoints: 7,
    writes: 20,
    lastSync: '2026-01-02T03:05:05.000Z',
    lastSyncMs: 1.52,
    problems: ['default/web: spec.externalIPs[0]: is no address: "x"'],
  },
};

function directory(t: { teardown: (act: () => void) => void }): string {
  const made = mkdtempSync(path.join(tmpdir(), 'fairlead-test-'));
  t.teardown(() => rmSync(made, { recursive: true }));
  return made;
}

test('the status goes over a socket that only its owner can open', async (t) => {
  const socket = path.join(directory(t), 'run', 'node.sock');
  await using _server = await serveStatus(socket, () => status);
  t.is(statSync(socket).mode & 0o777, 0o600);
  t.deepEqual(await askStatus(socket), status);
});

test('a restarted agent takes over the socket that a killed one left', async (t) => {
  const socket = path.join(directory(t), 'node.sock');
  await using _first = await serveStatus(socket, () => ({ ...status, pid: 1 }));
  await using _second = await serveStatus(socket, () => ({ ...status, pid: 2 }));
  t.is((await askStatus(socket))?.pid, 2);
});

test('an agent that is not there has no status', async (t) => {
  t.is(await askStatus(path.join(directory(t), 'none.sock')), undefined);
});

test('the status reads as one fact a line', (t) => {
  t.is(
    renderNodeStatus(status),
    [
      'node             node-1',
      'ready            yes',
      'running since    2026-01-02T03:04:05.000Z (pid 7)',
      'backend          vxlan',
      'subnets          10.244.1.0/24, fd00::/64',
      'peers            2',
      'problems         none',
      'free addresses   10.244.1.0/24: 252, fd00::/64: 9',
      'proxy mode       nftables',
      'proxy services   3 with 7 endpoints',
      'proxy last sync  2026-01-02T03:05:05.000Z (1.5 ms)',
      'proxy problems   default/web: spec.externalIPs[0]: is no address: "x"',
      '',
    ].join('\n'),
  );
});

test('of many problems of Services the first are shown, and how many more there are', (t) => {
  const problems = Array.from({ length: 12 }, (_, index) => `default/s${index}: bad`);
  const lines = proxyLines({ synced: false, services: 0, endpoints: 0, writes: 0, problems });
  t.deepEqual(lines.slice(0, 4), [
    ['proxy mode', 'not started'],
    ['proxy services', '0 with 0 endpoints'],
    ['proxy last sync', 'never'],
    ['proxy problems', 'default/s0: bad'],
  ]);
  t.is(lines.length, 3 + 10 + 1);
  t.deepEqual(lines.at(-1), ['proxy problems', 'and 2 more']);
});
