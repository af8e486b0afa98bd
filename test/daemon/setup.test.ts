import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { makePrivateKey, wireguardKeys } from '../../daemon/backend/wireguard-key.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { announcedIps, setUp, wishedSelector } from '../../daemon/setup.ts';
import { staticLeaseStore } from '../../daemon/store-static.ts';
import type { Underlay } from '../../daemon/underlay.ts';
import { hostCidr, ip } from './golden.ts';

const underlay: Underlay = {
  device: 'eth0',
  mtuBytes: 1500,
  addresses: { 4: hostCidr('192.0.2.1/24') },
  publicIps: { 4: ip('192.0.2.1') },
};

test('an operator’s word at the node wins over what was said at start, in the families that the node has', (t) => {
  const given = { interface: 'eth0', publicIps: { 4: ip('192.0.2.2'), 6: ip('2001:db8::2') } };
  const wishes = {
    publicIps: { 4: ip('192.0.2.50') },
    announced: { 4: ip('203.0.113.9'), 6: ip('2001:db8::9') },
  };
  t.deepEqual(wishedSelector(given, wishes), {
    interface: 'eth0',
    publicIps: { 4: ip('192.0.2.50'), 6: ip('2001:db8::2') },
  });
  t.deepEqual(wishedSelector(given), given);
  t.deepEqual(announcedIps(underlay, wishes), { 4: ip('203.0.113.9') });
  t.deepEqual(announcedIps(underlay, undefined), { 4: ip('192.0.2.1') });
});

test('flanneld’s WireGuard key lies beside its subnet.env', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-test-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const key = makePrivateKey();
  mkdirSync(join(directory, 'flannel'));
  writeFileSync(join(directory, 'flannel', 'wgkey'), key, { mode: 0o400 });
  const silent = () => {};
  const config = parseNetworkConfig('{"Network":"10.244.0.0/16","Backend":{"Type":"wireguard"}}');
  const { backend } = setUp(config, {
    ...{ nodeName: 'n', config, store: staticLeaseStore('n', {}), keptDir: join(directory, 'kept') },
    ...{ cni: { socketPath: '', stateDir: directory }, signal: new AbortController().signal },
    subnetFile: join(directory, 'flannel', 'subnet.env'),
    log: { info: silent, warn: silent, error: silent },
  });
  t.like(backend.data('n', underlay, { leases: new Map() })[4], { PublicKey: wireguardKeys(key).publicKey });
});
