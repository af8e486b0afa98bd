import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { parsePrevResult } from '../../cni/prev-result.ts';
import { type Result, renderResult } from '../../cni/result.ts';
import { type CniVersion, supportedVersions } from '../../cni/version.ts';
import type { Cidr, HostCidr, Ip } from '../../core/address.ts';

function parsed(prevResult: unknown, version: CniVersion): Result | string | undefined {
  const result = parsePrevResult(foldKeys({ prevResult }), version);
  return result instanceof CniError ? `${result.code} ${result.message}` : result;
}

/** What a chained plugin that adds nothing answers. */
function passed(prevResult: object, version: CniVersion): unknown {
  const result = parsed(prevResult, version);
  if (result === undefined || typeof result === 'string') return result;
  const text = renderResult(result, version);
  return text instanceof CniError ? text.message : JSON.parse(text);
}

const routes = [{ dst: '0.0.0.0/0', gw: '10.1.0.1' }, { dst: '10.0.0.0/8' }];
const dns = { nameservers: ['10.1.0.53'], domain: 'x.example', search: ['y.example'], options: ['ndots:5'] };
const legacy = {
  ip4: { ip: '10.1.0.2/24', gateway: '10.1.0.1', routes },
  ip6: { ip: 'fd00::2/64', gateway: 'fd00::1' },
  dns,
};
const ips04 = [
  { version: '4', interface: 0, address: '10.1.0.2/24', gateway: '10.1.0.1' },
  { version: '6', address: 'fd00::2/64' },
];
const interfaces = [
  { name: 'eth0', mac: '0a:58:0a:01:00:02', sandbox: '/run/netns/x' },
  { name: 'ib0', mac: '80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03:00:31:78:f2' },
];
const ips1 = ips04.map(({ version: _, ...ip }) => ip);
const written: Readonly<Record<CniVersion, object>> = {
  '0.1.0': legacy,
  '0.2.0': legacy,
  '0.3.0': { interfaces, ips: ips04, routes, dns },
  '0.3.1': { interfaces, ips: ips04, routes, dns },
  '0.4.0': { interfaces, ips: ips04, routes, dns },
  '1.0.0': { interfaces, ips: ips1, routes, dns },
  '1.1.0': {
    interfaces: [
      { ...interfaces[0], mtu: 1450, socketPath: '/run/vhost', pciID: '0000:00:1f.6' },
      { name: 'cni0', mac: '0a:58:0a:01:00:01', mtu: 1500 },
    ],
    ips: ips1,
    routes: [{ dst: '0.0.0.0/0', gw: '10.1.0.1', mtu: 1400, advmss: 1360, priority: 7, table: 0, scope: 0 }],
    dns,
  },
};

for (const version of supportedVersions) {
  test(`a result of ${version} is passed through unchanged`, (t) => {
    const result = { cniVersion: version, ...written[version] };
    t.deepEqual(passed(result, version), result);
  });

  test(`a result of ${version} without a version is taken to be one of the configuration's`, (t) => {
    t.deepEqual(passed(written[version], version), { cniVersion: version, ...written[version] });
  });
}

test('no result, an empty one and null are none', (t) => {
  t.is(parsePrevResult(foldKeys({}), '1.0.0'), undefined);
  t.is(parsed(null, '1.0.0'), undefined);
  t.is(parsed({}, '1.0.0'), undefined);
});

test('a result of another shape than the configuration is refused with both', (t) => {
  t.is(
    parsed({ cniVersion: '0.4.0', ips: [] }, '1.0.0'),
    '6 could not parse prevResult: result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is "0.4.0"',
  );
  t.is(
    parsed({ cniVersion: '1.0.0' }, '0.3.1'),
    '6 could not parse prevResult: result type supports [0.3.0 0.3.1 0.4.0] but unmarshalled CNIVersion is "1.0.0"',
  );
  t.is(typeof parsed({ cniVersion: '0.3.0', ips: [] }, '0.4.0'), 'object');
});

test('keys match in any case, and unknown ones are let pass', (t) => {
  const result = { CNIVERSION: '1.0.0', Ips: [{ Address: '10.1.0.2/24', Extra: 1 }], more: true };
  t.like(parsed(result, '1.0.0'), { ips: [{ address: '10.1.0.2/24' as HostCidr }] });
});

test('an index of 0 stays, and an absent one stays absent', (t) => {
  const result = parsed({ ips: ips1 }, '1.0.0') as Result;
  t.deepEqual(
    result.ips.map((ip) => ip.interface),
    [0, undefined],
  );
});

test('results of before 0.3.0 become ones without interfaces', (t) => {
  t.deepEqual(parsed(legacy, '0.2.0'), {
    interfaces: [],
    ips: [
      { address: '10.1.0.2/24' as HostCidr, gateway: '10.1.0.1' as Ip, interface: undefined },
      { address: 'fd00::2/64' as HostCidr, gateway: 'fd00::1' as Ip, interface: undefined },
    ],
    routes: routes.map(({ dst, gw }) => ({
      destination: dst as Cidr,
      gateway: gw as Ip | undefined,
      mtuBytes: undefined,
      advertisedMss: undefined,
      priority: undefined,
      table: undefined,
      scope: undefined,
    })),
    dns,
  });
});

test('what is wrong is told with its place', (t) => {
  const result = { ips: [{ address: '10.1.0.300/24' }, {}], routes: [{ gw: 'x' }], interfaces: 5 };
  t.is(
    parsed(result, '1.0.0'),
    '6 could not parse prevResult: interfaces: must be a list, not 5; ' +
      'ips[0].address: must be an address such as 10.1.0.2/24, not "10.1.0.300/24"; ips[1].address: missing; ' +
      'routes[0].gw: must be an IP address, not "x"; routes[0].dst: missing',
  );
  t.is(parsed('text', '1.0.0'), '6 could not parse prevResult: must be an object, not "text"');
});

test('any value is read or refused, never thrown at; what was read is read the same again', (t) => {
  const key = fc.constantFrom('interfaces', 'ips', 'routes', 'dns', 'ip4', 'address', 'dst', 'name', 'mac');
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.jsonValue(),
      fc.dictionary(key, tie('value')),
      fc.array(tie('value')),
    ),
  }));
  fc.assert(
    fc.property(value, fc.constantFrom(...supportedVersions), (prevResult, version) => {
      const first = parsed(prevResult, version);
      if (first === undefined || typeof first === 'string') return;
      const text = renderResult(first, version);
      if (text instanceof CniError) return;
      t.is(renderResult(parsed(JSON.parse(text), version) as Result, version), text);
    }),
    { numRuns: 500 },
  );
});
