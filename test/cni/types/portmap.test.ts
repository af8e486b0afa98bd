import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import type { Result } from '../../../cni/result.ts';
import {
  type HostPort,
  hostPortElement,
  hostPortOf,
  hostPortsOf,
  staleFlows,
} from '../../../cni/types/hostport.ts';
import {
  type PortmapConfig,
  type PortmapRows,
  parsePortmap,
  planLocalnet,
  planPortmap,
  podAddresses,
} from '../../../cni/types/portmap.ts';
import type { Family, HostCidr, Ip } from '../../../core/address.ts';
import { family, ipOfFamily } from '../../core/arbitrary.ts';
import { heldBy } from '../host-port-holders.ts';

const web = { hostPort: 8080, containerPort: 80, protocol: 'tcp' };
const addresses = { 4: '10.1.0.5/24' as HostCidr, 6: 'fd00:1::5/64' as HostCidr };

function parse(mappings: unknown, options: object = {}) {
  return parsePortmap(foldKeys({ ...options, runtimeConfig: { portMappings: mappings } }));
}

function config(mappings: unknown, options: object = {}): PortmapConfig {
  const parsed = parse(mappings, options);
  if (parsed instanceof CniError) throw parsed;
  return parsed;
}

function plan(mappings: unknown, options: object = {}): PortmapRows {
  const rows = planPortmap(config(mappings, options), addresses);
  if (rows instanceof CniError) throw rows;
  return rows;
}

/** `hostports4 8080/tcp → 10.1.0.5:80` */
function described(rows: PortmapRows): string[] {
  return hostPortsOf(rows).map(
    ({ hostIp, hostPort, protocol, pod, containerPort }) =>
      `${hostIp ?? '*'}:${hostPort}/${protocol} > ${pod}:${containerPort}`,
  );
}

const refusals: readonly (readonly [string, unknown, object, string])[] = [
  ['host port 0', [{ ...web, hostPort: 0 }], {}, 'Invalid host port number: 0'],
  ['host port missing', [{ containerPort: 80 }], {}, 'Invalid host port number: 0'],
  ['host port above 65535', [{ ...web, hostPort: 65_536 }], {}, 'Invalid host port number: 65536'],
  ['container port -1', [{ ...web, containerPort: -1 }], {}, 'Invalid container port number: -1'],
  ['a port as text', [{ ...web, hostPort: '80' }], {}, 'hostPort: must be a whole number'],
  ['a protocol', [{ ...web, protocol: 'icmp' }], {}, 'must be tcp, udp or sctp, not "icmp"'],
  ['a host address', [{ ...web, hostIP: 'example' }], {}, 'hostIP: must be an IP address, not "example"'],
  ['no list', { hostPort: 1 }, {}, 'portMappings: must be a list'],
  ['no object', [1], {}, 'portMappings[0]: must be an object, not 1'],
  [
    'two ways to mark',
    [web],
    { markMasqBit: 13, externalSetMarkChain: 'X' },
    'Cannot specify externalSetMarkChain and markMasqBit',
  ],
  ['a bit', [web], { markMasqBit: 32 }, 'MasqMarkBit must be between 0 and 31'],
  ['a backend', [web], { backend: 'ebtables' }, 'unrecognized backend "ebtables"'],
  [
    'a chain without iptables',
    [web],
    { backend: 'nftables', externalSetMarkChain: 'X' },
    'nftables backend was requested but configuration contains iptables-specific options [externalSetMarkChain]',
  ],
  [
    'conditions of the other backend',
    [web],
    { backend: 'iptables', conditionsV4: ['ip', 'saddr', '1.2.3.4'] },
    'iptables backend was requested but configuration contains nftables-specific options [conditionsV4]',
  ],
  [
    'what nftables could match, but not here',
    [web],
    { backend: 'nftables', conditionsV6: ['ip', 'saddr', '10.0.0.0/8'] },
    'conditionsV6: "ip" cannot begin a condition of a host port; possible are fib daddr type local, ip6 saddr, ip6 daddr, iifname, iif, mark, with != or a set { … }',
  ],
  [
    'an address that is none',
    [web],
    { conditionsV4: ['ip saddr 10.0.0.0/33'] },
    'conditionsV4: ip saddr: "10.0.0.0/33" is no IPv4 address, network or range',
  ],
  [
    'another bit in nftables',
    [web],
    { backend: 'nftables', markMasqBit: 20 },
    'markMasqBit: the nftables backend uses bit 13',
  ],
  [
    'conditions that break the line',
    [web],
    { conditionsV4: ['-s', '1.2.3.4\n-A'] },
    'cannot be part of a rule',
  ],
  ['conditions with quotes', [web], { conditionsV4: ['-m', '"'] }, 'cannot be part of a rule'],
];

for (const [title, mappings, options, text] of refusals) {
  test(`refused with its words: ${title}`, (t) => {
    const error = parse(mappings, options);
    t.true(error instanceof CniError && error.message.startsWith('failed to parse config: '));
    t.true(error instanceof CniError && error.message.includes(text), (error as CniError).message);
  });
}

test('conditions of nftables are elements beside that of the port, and the backend is nftables', (t) => {
  const options = {
    conditionsV4: ['ip', 'saddr', '10.0.0.0/8', 'iifname', '!=', '"wg0"'],
    backend: undefined,
  };
  t.is(config([web], options).backend, 'nftables');
  const port = '00000000060000001f900000';
  const to = port.slice(8);
  const all = (rest: string) => `ffffffff${to}${rest}`;
  const wg0 = Buffer.from('wg0').toString('hex').padEnd(32, '0');
  const guards = plan([web], options).elements.filter(({ set }) => set.startsWith('condition'));
  t.deepEqual(guards, [
    { set: 'conditional4', key: port, keyEnd: all('') },
    { set: 'condition-addresses4', key: `${port}0a000000`, keyEnd: all('0affffff') },
    { set: 'condition-links-not4', key: port + wg0, keyEnd: all(wg0) },
  ]);
  t.is(plan([web], options).elements.filter(({ set }) => set.startsWith('hostports')).length, 2);
  const [one] = plan([{ ...web, hostIP: '192.0.2.1' }], options).elements.filter(
    ({ set }) => set === 'conditional4',
  );
  t.is(one?.key.slice(0, 8), 'c0000201');
  t.is(one?.keyEnd?.slice(0, 8), 'c0000201');
});

test('too many pairs of addresses are refused before they are made', (t) => {
  const many = (first: number) =>
    Array.from({ length: 100 }, (_, index) => `${first}.${index}.0.0`).join(',');
  const conditionsV4 = [`ip saddr { ${many(10)} } ip daddr { ${many(11)} }`];
  const refused = planPortmap(config([web], { conditionsV4 }), addresses);
  t.is((refused as CniError).message, 'conditionsV4: more than 4096 pairs of addresses are meant');
});

test('two networks of a container have a host port by the same conditions, or not both', (t) => {
  const rows = (saddr?: string) =>
    plan([web], saddr === undefined ? {} : { conditionsV4: [`ip saddr ${saddr}`] });
  const first = heldBy('abc', rows('10.0.0.0/8'));
  t.is(first.conflict('abc', rows('10.0.0.0/8'), 'other'), undefined);
  for (const other of [rows('10.1.0.0/16'), rows()])
    t.is(
      first.conflict('abc', other, 'other')?.message,
      'hostPort 8080/tcp has other conditions in another network of the container',
    );
  t.is(first.conflict('abc', rows('10.1.0.0/16')), undefined, 'the same attachment, once more');
  t.regex(first.conflict('x', rows('172.16.0.0/12'))?.message ?? '', /already taken by abc/);
});

test('every problem is in one message', (t) => {
  const error = parse(
    [
      { ...web, hostPort: 0 },
      { ...web, containerPort: 0 },
    ],
    { backend: 'x' },
  );
  t.is((error as CniError).message.split('; ').length, 3);
});

test('nftables, unless something is asked for that only iptables can do', (t) => {
  t.is(config([web]).backend, 'nftables');
  t.is(config([web], { backend: 'iptables' }).backend, 'iptables');
  t.is(config([web], { externalSetMarkChain: 'KUBE-MARK-MASQ' }).backend, 'iptables');
  t.is(config([web], { conditionsV4: ['!', '-s', '1.2.3.4'] }).backend, 'iptables');
  t.is(config([web], { markMasqBit: 20 }).backend, 'iptables');
  t.is(config([web], { markMasqBit: 13, conditionsV4: [''], conditionsV6: [] }).backend, 'nftables');
});

test('a mapping is one of every family of the pod, protocols in any case and TCP without one', (t) => {
  t.deepEqual(
    described(
      plan([
        { ...web, protocol: 'UDP' },
        { hostPort: 9, containerPort: 99 },
        { ...web, protocol: 'Sctp' },
      ]),
    ),
    [
      '*:8080/udp > 10.1.0.5:80',
      '*:8080/udp > fd00:1::5:80',
      '*:9/tcp > 10.1.0.5:99',
      '*:9/tcp > fd00:1::5:99',
      '*:8080/sctp > 10.1.0.5:80',
      '*:8080/sctp > fd00:1::5:80',
    ],
  );
});

test('a host address is of one family; an unspecified one is every address of that family', (t) => {
  const at = (hostIP: string) => described(plan([{ ...web, hostIP }]));
  t.deepEqual(at('192.0.2.1'), ['192.0.2.1:8080/tcp > 10.1.0.5:80']);
  t.deepEqual(at('::ffff:192.0.2.1'), ['192.0.2.1:8080/tcp > 10.1.0.5:80']);
  t.deepEqual(at('2001:DB8::1'), ['2001:db8::1:8080/tcp > fd00:1::5:80']);
  t.deepEqual(at('0.0.0.0'), ['*:8080/tcp > 10.1.0.5:80']);
  t.deepEqual(at('::'), ['*:8080/tcp > fd00:1::5:80']);
  t.is(at('').length, 2);
});

test('without an address of the family there is no host port, without mappings there are no rows', (t) => {
  const only4 = planPortmap(config([{ ...web, hostIP: '::1' }]), { 4: addresses[4] });
  t.deepEqual(only4, { elements: [], iptables: [] });
  t.deepEqual(plan(undefined), { elements: [], iptables: [] });
});

test('without a result of the plugin before it is refused', (t) => {
  const refused = planPortmap(config([web]), undefined);
  t.is((refused as CniError).message, 'must be called as chained plugin');
});

test('the pod, its subnet and 127.0.0.1 are masqueraded; or everybody; or nobody', (t) => {
  const scopes = (options: object) => {
    const { elements } = plan([web], options);
    const pods = elements.filter(({ set }) => set.startsWith('hostport-pods'));
    return pods.map(({ set, key, data }) => {
      const ranges = elements.filter((one) => one.set === set.replace('pods', 'sources'));
      const ends = (text = '') => (text.startsWith(`${data}`) ? text.slice(`${data}`.length) : 'of no scope');
      return [key, ...ranges.map((range) => `${ends(range.key)}-${ends(range.keyEnd)}`)];
    });
  };
  const pod6 = 'fd000001000000000000000000000005';
  t.deepEqual(scopes({}), [
    ['0a010005', '0a010000-0a0100ff', '7f000000-7fffffff'],
    [pod6, 'fd000001000000000000000000000000-fd00000100000000ffffffffffffffff'],
  ]);
  t.deepEqual(scopes({ masqAll: true }), [
    ['0a010005', '00000000-ffffffff'],
    [pod6, `${'0'.repeat(32)}-${'f'.repeat(32)}`],
  ]);
  t.deepEqual(scopes({ snat: false, masqAll: true }), []);
});

test('a mapping given twice is one; two ways for one port are refused', (t) => {
  t.is(described(plan([web, web])).length, 2);
  const refused = planPortmap(config([web, { ...web, containerPort: 81 }]), addresses);
  t.is((refused as CniError).message, 'hostPort 8080/tcp is mapped more than once');
  const overlap = planPortmap(config([web, { ...web, hostIP: '192.0.2.1' }]), addresses);
  t.is((overlap as CniError).message, 'hostPort 192.0.2.1:8080/tcp is mapped more than once');
});

const conflicts: readonly (readonly [object, object, string | undefined])[] = [
  [web, web, '8080/tcp'],
  [web, { ...web, protocol: 'udp' }, undefined],
  [web, { ...web, hostPort: 8081 }, undefined],
  [web, { ...web, hostIP: '192.0.2.1' }, '8080/tcp'],
  [{ ...web, hostIP: '192.0.2.1' }, web, '192.0.2.1:8080/tcp'],
  [{ ...web, hostIP: '192.0.2.1' }, { ...web, hostIP: '192.0.2.2' }, undefined],
  [{ ...web, hostIP: '192.0.2.1' }, { ...web, hostIP: '192.0.2.1' }, '192.0.2.1:8080/tcp'],
  [{ ...web, hostIP: '0.0.0.0' }, { ...web, hostIP: '::' }, undefined],
  [{ ...web, hostIP: '::' }, { ...web, hostIP: '2001:db8::1' }, '8080/tcp'],
  [{ ...web, hostIP: '2001:db8::1' }, { ...web, hostIP: '::' }, '[2001:db8::1]:8080/tcp'],
];

for (const [wanted, held, expected] of conflicts) {
  const outcome = expected === undefined ? 'are no conflict' : 'are a conflict';
  test(`${JSON.stringify(wanted)} beside ${JSON.stringify(held)} ${outcome}, whatever the backends`, (t) => {
    for (const one of ['nftables', 'iptables']) {
      for (const other of ['nftables', 'iptables']) {
        const holders = heldBy('abc', plan([held], { backend: other }));
        const error = holders.conflict('next', plan([wanted], { backend: one }));
        t.is(error?.message, expected && `hostPort ${expected} is already taken by abc`);
      }
    }
  });
}

const port = fc.integer({ min: 1, max: 65_535 });
const hostPort: fc.Arbitrary<HostPort> = family.chain((of: Family) =>
  fc.record({
    family: fc.constant(of),
    hostIp: fc.option(ipOfFamily(of), { nil: undefined }),
    protocol: fc.constantFrom('tcp', 'udp', 'sctp'),
    hostPort: port,
    pod: ipOfFamily(of),
    containerPort: port,
  }),
);

test('a host port and its element say the same', (t) => {
  fc.assert(fc.property(hostPort, (one) => t.deepEqual(hostPortOf(hostPortElement(one)), one)));
  t.is(hostPortOf({ set: 'masquerade4', key: '0a000001' }), undefined);
});

test('any configuration is read or refused, never thrown at', (t) => {
  fc.assert(
    fc.property(fc.object({ maxDepth: 3 }), fc.jsonValue(), (options, mappings) => {
      const parsed = parsePortmap(foldKeys({ ...options, runtimeConfig: { portMappings: mappings } }));
      if (!(parsed instanceof CniError)) planPortmap(parsed, addresses);
    }),
  );
  t.pass();
});

test('UDP flows to the host ports are stale, TCP flows are not', (t) => {
  const rows = plan([{ ...web, protocol: 'udp', hostIP: '192.0.2.1' }, web]);
  t.deepEqual(staleFlows(hostPortsOf(rows)), [
    { family: 4, protocol: 17, original: { dst: '192.0.2.1' as Ip, dport: 8080 } },
  ]);
  t.deepEqual(
    staleFlows(hostPortsOf(plan([{ ...web, protocol: 'udp' }], { backend: 'iptables' }))).length,
    2,
  );
});

test('the way to an IPv4 pod lets 127.0.0.1 through, unless nothing is masqueraded', (t) => {
  const key = 'net/ipv4/conf/cni0/route_localnet';
  t.deepEqual(planLocalnet(config([web]), addresses, 'cni0'), [{ key, value: '1' }]);
  t.is(planLocalnet(config([web], { snat: false }), addresses, 'cni0').length, 0);
  t.is(planLocalnet(config([web]), { 6: addresses[6] }, 'cni0').length, 0);
  t.is(planLocalnet(config([]), addresses, 'cni0').length, 0);
});

test("the pod's addresses are the first of each family on its interface", (t) => {
  const result = (ips: Result['ips']): Result => ({
    interfaces: [{ name: 'cni0' }, { name: 'eth0' }, { name: 'eth0', sandbox: '/run/netns/x' }],
    ips,
    routes: [],
    dns: { nameservers: [], search: [], options: [] },
  });
  const ip = (address: string, index?: number) => ({ address: address as HostCidr, interface: index });
  const found = podAddresses(
    result([
      ip('10.0.0.1/24', 0),
      ip('10.0.0.2/24', 1),
      ip('10.0.0.3/24', 2),
      ip('10.0.0.4/24', 2),
      ip('fd00::3/64', 9),
    ]),
    'eth0',
  );
  t.deepEqual(found, { 4: '10.0.0.3/24' as HostCidr, 6: 'fd00::3/64' as HostCidr });
  t.deepEqual(podAddresses(result([ip('10.0.0.9/24')]), 'eth0'), { 4: '10.0.0.9/24' as HostCidr });
});
