import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'ava';
import { askStatus, type NodeStatus, serveStatus } from '../../cli/node-status.ts';
import { renderNodeStatus } from '../../cli/status.ts';

const status: NodeStatus = {
  name: 'node-1',
  pid: 7,
  ready: true,
  startedAt: '2026-01-02T03:04:05.000Z',
  daemon: { backend: 'vxlan', subnets: ['10.244.1.0/24', 'fd00::/64'], peers: 2, problems: [] },
  proxy: { lastSyncMs: 1.5 },
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
      'node                node-1',
      'ready               yes',
      'running since       2026-01-02T03:04:05.000Z (pid 7)',
      'backend             vxlan',
      'subnets             10.244.1.0/24, fd00::/64',
      'peers               2',
      'problems            none',
      'proxy last sync ms  1.5',
      '',
    ].join('\n'),
  );
});
