import test from 'ava';
import { ipFromBytes } from '../../core/address.ts';
import { backendFor } from '../../daemon/backend/backends.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { guardRows } from '../../daemon/guard.ts';
import { hostCidr, ip, leaseOf, planOf, type TestNode } from './golden.ts';

const text = (backend: object) => JSON.stringify({ Network: '10.244.0.0/16', Backend: backend });
const addressOf = ({ key }: { key: string }) => ipFromBytes(Buffer.from(key, 'hex')) as string;
const inSet = (backend: object, set: string, ...nodes: TestNode[]) =>
  [...planOf(text(backend), [{ n: 1 }, ...nodes]).nft.values()]
    .filter((row) => row.set === set)
    .map(addressOf);

test('encapsulated packets may come from every address that the store knows of a node', (t) => {
  const behindNat = {
    n: 2,
    publicIps: { 4: '203.0.113.2' },
    addresses: [ip('192.0.2.2'), ip('2001:db8::2')],
  };
  for (const Type of ['vxlan', 'ipip'])
    t.deepEqual(inSet({ Type }, 'peers4', behindNat, { n: 3 }).sort(), [
      '192.0.2.2',
      '192.0.2.3',
      '203.0.113.2',
    ]);
});

test('where nobody knows the addresses that nodes’ packets come from, the guard can be taken away', (t) => {
  for (const Type of ['vxlan', 'ipip']) {
    for (const set of ['peers4', 'tunnelcarriers', 'tunnelports', 'tunnelprotocols4', 'tunnelends4'])
      t.deepEqual(inSet({ Type, TunnelSenders: 'any' }, set, { n: 2 }), [], set);
  }
  t.throws(() => parseNetworkConfig(text({ Type: 'vxlan', TunnelSenders: 'all' })), {
    message: /Backend\.TunnelSenders: is not "nodes" or "any": "all"/,
  });
});

test('IP in IP that is not for our tunnel is no matter of the guard’s', (t) => {
  t.deepEqual(
    inSet({ Type: 'ipip' }, 'tunnelends4', { n: 2 }),
    ['192.0.2.1'],
    'only what goes to our own end',
  );
  const config = parseNetworkConfig(text({ Type: 'ipip' }));
  const leases = [1, 2].map((n) => leaseOf({ n }, 'ipip'));
  const [self] = leases;
  if (self === undefined) throw new Error('no node');
  const underlay = {
    ...{
      device: 'eth0',
      mtuBytes: 1500,
      addresses: { 4: hostCidr('192.0.2.1/24') },
      publicIps: self.publicIps,
    },
    tunnelRemotes: [ip('198.51.100.9')],
  };
  const facts = {
    self,
    leases: new Map(leases.map((lease) => [lease.key, lease])),
    networks: {},
    underlay,
    nodeName: 'node-1',
  };
  const networks = { 4: config.networks[4]?.network };
  const plan = backendFor(config.backend, { stateDir: '/nonexistent' }).plan({
    ...facts,
    networks: networks as never,
  });
  const senders = guardRows(plan.guard).filter(({ set }) => set === 'peers4');
  t.deepEqual(
    senders.map(addressOf),
    ['192.0.2.2', '198.51.100.9'],
    'an operator’s own tunnel has its packets',
  );
});
