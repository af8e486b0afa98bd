import test from 'ava';
import { CniError } from '../../cni/error.ts';
import { type Result, renderError, renderResult, renderVersions } from '../../cni/result.ts';
import { supportedVersions } from '../../cni/version.ts';
import type { Cidr, HostCidr, Ip, Mac } from '../../core/address.ts';

const result: Result = {
  interfaces: [
    { name: 'cni0', mac: '0a:58:0a:01:00:01' as Mac, mtuBytes: 1450 },
    { name: 'eth0', mac: '0a:58:0a:01:00:02' as Mac, mtuBytes: 1450, sandbox: '/run/netns/x' },
  ],
  ips: [
    { address: '10.1.0.2/24' as HostCidr, gateway: '10.1.0.1' as Ip, interface: 1 },
    { address: 'fd00::2/64' as HostCidr, gateway: 'fd00::1' as Ip, interface: 1 },
  ],
  routes: [
    {
      destination: '0.0.0.0/0' as Cidr,
      gateway: '10.1.0.1' as Ip,
      mtuBytes: 1400,
      priority: 7,
      table: 9,
      scope: 0,
    },
    { destination: '::/0' as Cidr, gateway: 'fd00::1' as Ip },
  ],
  dns: { nameservers: [], search: [], options: [] },
};

function rendered(version: (typeof supportedVersions)[number], changed: Partial<Result> = {}) {
  const text = renderResult({ ...result, ...changed }, version);
  return text instanceof CniError ? text.message : JSON.parse(text);
}

const routes = [
  { dst: '0.0.0.0/0', gw: '10.1.0.1' },
  { dst: '::/0', gw: 'fd00::1' },
];

test('1.1.0 has everything', (t) => {
  t.deepEqual(rendered('1.1.0'), {
    cniVersion: '1.1.0',
    interfaces: [
      { name: 'cni0', mac: '0a:58:0a:01:00:01', mtu: 1450 },
      { name: 'eth0', mac: '0a:58:0a:01:00:02', mtu: 1450, sandbox: '/run/netns/x' },
    ],
    ips: [
      { address: '10.1.0.2/24', gateway: '10.1.0.1', interface: 1 },
      { address: 'fd00::2/64', gateway: 'fd00::1', interface: 1 },
    ],
    routes: [{ ...routes[0], mtu: 1400, priority: 7, table: 9, scope: 0 }, routes[1]],
  });
});

test('1.0.0 has neither mtu nor what routes got later', (t) => {
  t.like(rendered('1.0.0'), { interfaces: [{ name: 'cni0' }, { name: 'eth0' }], routes });
  t.false('mtu' in rendered('1.0.0').interfaces[0]);
  t.deepEqual(rendered('1.0.0').routes, routes);
});

for (const version of ['0.3.0', '0.3.1', '0.4.0'] as const) {
  test(`${version} says the family of each address and has dns always`, (t) => {
    t.deepEqual(rendered(version).ips, [
      { version: '4', address: '10.1.0.2/24', gateway: '10.1.0.1', interface: 1 },
      { version: '6', address: 'fd00::2/64', gateway: 'fd00::1', interface: 1 },
    ]);
    t.deepEqual(rendered(version).dns, {});
  });
}

for (const version of ['0.1.0', '0.2.0'] as const) {
  test(`${version} has the first address of each family and routes by family`, (t) => {
    const more = [...result.ips, { address: '10.9.0.2/24' as HostCidr }];
    t.deepEqual(rendered(version, { ips: more }), {
      cniVersion: version,
      ip4: { ip: '10.1.0.2/24', gateway: '10.1.0.1', routes: [routes[0]] },
      ip6: { ip: 'fd00::2/64', gateway: 'fd00::1', routes: [routes[1]] },
      dns: {},
    });
  });

  test(`a result without addresses cannot be written in ${version}`, (t) => {
    t.is(rendered(version, { ips: [] }), 'cannot convert: no valid IP addresses');
  });
}

test('index 0 of an interface is written', (t) => {
  const ips = [{ address: '10.1.0.2/24' as HostCidr, interface: 0 }];
  t.is(rendered('1.0.0', { ips }).ips[0].interface, 0);
});

test('dns is passed on', (t) => {
  const dns = { nameservers: ['10.0.0.10'], domain: 'x', search: ['y'], options: ['ndots:5'] };
  for (const version of supportedVersions) t.deepEqual(rendered(version, { dns }).dns, dns);
});

test('an error says version, code, message and details', (t) => {
  t.deepEqual(JSON.parse(renderError(new CniError(7, 'bad', 'x'), '1.0.0')), {
    cniVersion: '1.0.0',
    code: 7,
    msg: 'bad',
    details: 'x',
  });
});

test('VERSION says all versions', (t) => {
  t.deepEqual(JSON.parse(renderVersions()), {
    cniVersion: '1.1.0',
    supportedVersions: [...supportedVersions],
  });
});
