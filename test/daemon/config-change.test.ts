import { mkdtempSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import type { Cidr } from '../../core/address.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { configObstacles } from '../../daemon/config-change.ts';
import { fileConfigSource } from '../../daemon/config-source.ts';

const own = { 4: '10.5.7.0/24' as Cidr };
const v4 = (more: object = {}) =>
  parseNetworkConfig(JSON.stringify({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' }, ...more }));
const obstacles = (more: object, before = v4()) => configObstacles(before, v4(more), own);

test('a running node follows another backend, a network that grew, and other bounds that hold its subnet', (t) => {
  t.deepEqual(obstacles({ Backend: { Type: 'host-gw' } }), []);
  t.deepEqual(obstacles({ Network: '10.0.0.0/8' }), []);
  t.deepEqual(obstacles({ SubnetMin: '10.5.5.0', SubnetMax: '10.5.9.0' }), []);
});

test('what would take pods’ addresses away waits for a restart, and is named', (t) => {
  t.deepEqual(obstacles({ Network: '10.6.0.0/16' }), [
    "10.6.0.0/16 does not hold this node's subnet 10.5.7.0/24",
  ]);
  t.deepEqual(obstacles({ SubnetLen: 25 }), [
    "this node's subnet 10.5.7.0/24 is none of /25 from 10.5.0.128 to 10.5.255.128",
  ]);
  t.deepEqual(obstacles({ EnableIPv6: true, IPv6Network: 'fc00::/48' }), ['IPv6 is switched on']);
  const six = { EnableIPv4: false, EnableIPv6: true, IPv6Network: 'fc00::/48' };
  t.deepEqual(obstacles(six), ['IPv4 is switched off', 'IPv6 is switched on']);
});

test('where Kubernetes gives the subnets, their length in the file is no obstacle', (t) => {
  const read = (text: string) => parseNetworkConfig(text, 'x', { givesSubnets: false });
  const before = read('{"Network":"10.5.0.0/16"}');
  t.deepEqual(configObstacles(before, read('{"Network":"10.5.0.0/16","SubnetLen":28}'), own), []);
  t.deepEqual(configObstacles(before, read('{"Network":"10.4.0.0/15"}'), own), []);
});

test('a file is followed through the change of a link above it, and through its absence', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-config-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const at = (name: string) => join(directory, name);
  writeFileSync(at('one'), 'first');
  writeFileSync(at('two'), 'second');
  symlinkSync(at('one'), at('link'));
  const stop = new AbortController();
  const texts: string[] = [];
  for await (const text of fileConfigSource(at('link'), { pollMs: 10 }).texts(stop.signal)) {
    texts.push(text);
    if (text === 'first') {
      unlinkSync(at('link'));
      setTimeout(() => symlinkSync(at('two'), at('link')), 50);
    } else stop.abort();
  }
  t.deepEqual(texts, ['first', 'second']);
});
