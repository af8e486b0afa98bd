import test from 'ava';
import { InputError } from '../../core/errors.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';

const problemsOf = (text: string): string[] => {
  try {
    parseNetworkConfig(text);
    return [];
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return error.problems.map(({ path, message }) => `${path}: ${message}`);
  }
};
const v4 = (more: object) => JSON.stringify({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' }, ...more });

const vxlan = {
  type: 'vxlan',
  vni: 1,
  port: 8472,
  learning: false,
  directRouting: false,
  gbp: false,
  checksumOffload: 'auto',
};

test('what is not said has flannel’s values', (t) => {
  t.deepEqual(parseNetworkConfig('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}') as unknown, {
    networks: {
      4: { network: '10.5.0.0/16', subnetLength: 24, subnetMin: '10.5.1.0', subnetMax: '10.5.255.0' },
    },
    backend: vxlan,
    ignored: [],
  });
});

test('all that is said is taken', (t) => {
  const text = JSON.stringify({
    Network: '10.0.0.0/8',
    SubnetLen: 20,
    SubnetMin: '10.10.0.0',
    SubnetMax: '10.99.0.0',
    EnableIPv6: true,
    IPv6Network: '2001:cafe:42::/56',
    Backend: {
      Type: 'VXLAN',
      VNI: 7,
      Port: 4789,
      MTU: 9000,
      DirectRouting: true,
      GBP: true,
      ChecksumOffload: 'off',
    },
  });
  t.deepEqual(parseNetworkConfig(text) as unknown, {
    networks: {
      4: { network: '10.0.0.0/8', subnetLength: 20, subnetMin: '10.10.0.0', subnetMax: '10.99.0.0' },
      6: {
        network: '2001:cafe:42::/56',
        subnetLength: 64,
        subnetMin: '2001:cafe:42:1::',
        subnetMax: '2001:cafe:42:ff::',
      },
    },
    backend: {
      ...vxlan,
      vni: 7,
      port: 4789,
      mtuBytes: 9000,
      directRouting: true,
      gbp: true,
      checksumOffload: 'off',
    },
    ignored: [],
  });
});

test('keys are read in either case, host bits are cleared, null counts as absent', (t) => {
  const config = parseNetworkConfig(
    '{"network":"10.5.7.9/16","SUBNETLEN":null,"backend":{"type":"host-gw"}}',
  );
  t.is(config.networks[4]?.network as string, '10.5.0.0/16');
  t.deepEqual(config.backend, { type: 'host-gw' });
});

test('keys that mean nothing are named, not refused', (t) => {
  const more = { Comment: 'x', EnableNFTables: true, Backend: { Type: 'host-gw', DirectRouting: true } };
  t.deepEqual(parseNetworkConfig(v4(more)).ignored, ['Comment', 'Backend.DirectRouting']);
});

test('small networks are cut in four, and too small ones are refused', (t) => {
  const length = (network: string) =>
    parseNetworkConfig(JSON.stringify({ Network: network, Backend: { Type: 'host-gw' } })).networks[4]
      ?.subnetLength;
  t.is(length('10.5.0.0/22'), 24);
  t.is(length('10.5.0.0/23'), 25);
  t.is(length('10.5.0.0/28'), 30);
  t.deepEqual(problemsOf(v4({ Network: '10.5.0.0/29' })), [
    'Network: 10.5.0.0/29 is too small: it must hold four subnets of /30',
  ]);
});

test('every problem is named at once, with its value', (t) => {
  const text = JSON.stringify({
    Network: '10.5.0.0',
    network: '10.5.0.0/16',
    EnableIPv4: 'yes',
    EnableIPv6: true,
    SubnetMin: '10.5.0',
    Backend: { Type: 'vxlan', VNI: 0, Port: '8472', GBP: 1, MTU: 100, ChecksumOffload: 'no' },
  });
  t.deepEqual(problemsOf(text), [
    'network: is given twice, also as Network',
    'EnableIPv4: is not true or false: "yes"',
    'SubnetMin: is not an IPv4 address: "10.5.0"',
    'IPv6Network: is missing, and IPv6 is enabled',
    'Backend.VNI: is not a whole number from 1 to 16777215: 0',
    'Backend.Port: is not a whole number from 0 to 65535: "8472"',
    'Backend.MTU: 100 is less than 118',
    'Backend.GBP: is not true or false: 1',
    'Backend.ChecksumOffload: is not "auto" or "on" or "off": "no"',
  ]);
});

test('subnet bounds have to be in the network, on a boundary, and in order', (t) => {
  t.deepEqual(problemsOf(v4({ SubnetMin: '10.6.0.0' })), [
    'SubnetMin: 10.6.0.0 is not inside 10.5.0.0/16',
    'SubnetMin: 10.6.0.0 lies behind SubnetMax 10.5.255.0',
  ]);
  t.deepEqual(problemsOf(v4({ SubnetMax: '10.5.9.1' })), ['SubnetMax: 10.5.9.1 is not on a boundary of /24']);
  t.deepEqual(problemsOf(v4({ SubnetMin: '10.5.9.0', SubnetMax: '10.5.8.0' })), [
    'SubnetMin: 10.5.9.0 lies behind SubnetMax 10.5.8.0',
  ]);
  t.deepEqual(problemsOf(v4({ SubnetLen: 17 })), [
    'SubnetLen: 17: 10.5.0.0/16 must hold at least four subnets, so /18 or longer',
  ]);
  t.deepEqual(problemsOf(v4({ SubnetLen: 31 })), ['SubnetLen: 31 is longer than /30']);
});

const backendOf = (backend: object, more: object = {}) =>
  parseNetworkConfig(v4({ Backend: backend, ...more })).backend as unknown;
const key = Buffer.alloc(32, 7).toString('base64');

test('every backend of flannel’s that carries packets has its keys, with flannel’s values where they are silent', (t) => {
  t.deepEqual(parseNetworkConfig('{"Network":"10.5.0.0/16"}').backend as unknown, {
    type: 'udp',
    port: 8285,
  });
  t.deepEqual(backendOf({ Type: 'udp', Port: 0, MTU: 1400 }), { type: 'udp', port: 8285, mtuBytes: 1400 });
  t.deepEqual(backendOf({ Type: 'ipip' }), { type: 'ipip', directRouting: false });
  t.deepEqual(backendOf({ Type: 'ipip', DirectRouting: true }), { type: 'ipip', directRouting: true });
  t.deepEqual(backendOf({ Type: 'alloc' }), { type: 'alloc' });
  t.deepEqual(backendOf({ Type: 'wireguard' }), {
    type: 'wireguard',
    mode: 'separate',
    ports: { 4: 51820, 6: 51821 },
    keepaliveSeconds: 0,
  });
  const all = { ListenPort: 1, ListenPortV6: 2, Mode: 'ipv6', PSK: key, PersistentKeepaliveInterval: 25 };
  t.deepEqual(backendOf({ Type: 'wireguard', ...all, MTU: 1420 }), {
    type: 'wireguard',
    mode: 'ipv6',
    ports: { 4: 1, 6: 2 },
    psk: key,
    keepaliveSeconds: 25,
    mtuBytes: 1420,
  });
});

test('a tunnel’s MTU leaves room for what IP demands, in each family', (t) => {
  const v6 = { EnableIPv6: true, IPv6Network: 'fc00::/48' };
  t.deepEqual(problemsOf(v4({ ...v6, Backend: { Type: 'vxlan', MTU: 1349 } })), [
    'Backend.MTU: 1349 is less than 1350',
  ]);
  t.deepEqual(problemsOf(v4({ ...v6, Backend: { Type: 'vxlan', MTU: 1350 } })), []);
  t.deepEqual(problemsOf(v4({ Backend: { Type: 'ipip', MTU: 87 } })), ['Backend.MTU: 87 is less than 88']);
});

test('a key for wireguard is never told, and two devices do not share a port', (t) => {
  const wireguard = { Type: 'wireguard', PSK: 'hunter2', Mode: 'both', ListenPort: 51821 };
  t.deepEqual(problemsOf(v4({ EnableIPv6: true, IPv6Network: 'fc00::/48', Backend: wireguard })), [
    'Backend.Mode: is not "separate" or "auto" or "ipv4" or "ipv6": "both"',
    'Backend.ListenPortV6: 51821 is the port of IPv4, too, and each family has a device',
    'Backend.PSK: is not base64 of 32 bytes',
  ]);
});

test('a backend that is not there is refused by name', (t) => {
  t.deepEqual(problemsOf('{"Network":"10.5.0.0/16","Backend":{"Type":"ipsec"}}'), [
    'Backend.Type: "ipsec" is not supported; use one of vxlan, host-gw, udp, ipip, wireguard, alloc',
  ]);
});

test('where Kubernetes gives the subnets, what the file says of them does not matter', (t) => {
  const text = '{"Network":"10.244.0.0/29","SubnetLen":"x","SubnetMin":"y","Backend":{"Type":"host-gw"}}';
  const { networks, ignored } = parseNetworkConfig(text, 'net-conf.json', { givesSubnets: false });
  t.is(networks[4]?.network as string, '10.244.0.0/29');
  t.deepEqual(ignored, []);
  t.throws(
    () => parseNetworkConfig('{"Backend":{"Type":"alloc"}}', 'net-conf.json', { givesSubnets: false }),
    {
      message: 'net-conf.json: Network: is missing, and IPv4 is enabled',
    },
  );
});

test('text that is no JSON object is refused', (t) => {
  t.regex(problemsOf('Network=10.5.0.0/16')[0] ?? '', /is not JSON/);
  t.true(problemsOf('[]').includes('(text): is not an object: []'));
  t.deepEqual(problemsOf('{"EnableIPv4":false,"Backend":{"Type":"host-gw"}}'), [
    'EnableIPv4: is false, and so is EnableIPv6: no family is left',
  ]);
});
