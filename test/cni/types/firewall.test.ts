import test from 'ava';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import type { Result } from '../../../cni/result.ts';
import { type FirewallRows, parseFirewall, planFirewall } from '../../../cni/types/firewall.ts';
import type { HostCidr } from '../../../core/address.ts';

const result: Result = {
  interfaces: [{ name: 'cni0' }, { name: 'eth0', sandbox: '/run/netns/x' }],
  ips: [{ address: '10.1.0.5/24' as HostCidr }, { address: 'fd00:1::5/64' as HostCidr }],
  routes: [],
  dns: { nameservers: [], search: [], options: [] },
};
const pod6 = 'fd000001000000000000000000000005';

function plan(
  config: object,
  previous: Result | undefined = result,
  hasFirewalld = false,
): FirewallRows | string {
  const parsed = parseFirewall(foldKeys({ type: 'firewall', ...config }));
  if (parsed instanceof CniError) return parsed.message;
  const rows = planFirewall(parsed, previous, hasFirewalld);
  return rows instanceof CniError ? rows.message : rows;
}

function rows(config: object): FirewallRows {
  const planned = plan(config);
  if (typeof planned === 'string') throw new Error(planned);
  return planned;
}

test('what cannot be is refused in words', (t) => {
  const noInterfaces = { ...result, interfaces: [] };
  t.is(plan({ ingressPolicy: 'shut' }), 'failed to load netconf: unknown ingress policy: "shut"');
  t.is(
    plan({ backend: 'ebtables' }),
    'failed to load netconf: backend: "ebtables" is not supported; iptables, firewalld or nftables',
  );
  t.is(
    plan({ backend: 'firewalld', firewalldZone: 'a\nb' }),
    'failed to load netconf: firewalldZone: "a\\nb" is no name of a zone',
  );
  t.regex(
    String(plan({ iptablesAdminChainName: 'A B' })),
    /iptablesAdminChainName: "A B" is no name of a chain/,
  );
  t.regex(String(plan({ iptablesAdminChainName: '-X' })), /no name of a chain/);
  t.is(
    plan({ ingressPolicy: 'isolated' }, noInterfaces),
    'interface needs to be set for ingress policy "isolated", make sure to chain "firewall" plugin with "bridge"',
  );
  t.is(
    plan({ ingressPolicy: 'isolated' }, { ...result, interfaces: [{ name: '' }] }),
    'got empty bridge name',
  );
  const parsed = parseFirewall(foldKeys({}));
  const refused = parsed instanceof CniError ? parsed : planFirewall(parsed, undefined);
  t.is((refused as CniError).message, 'missing prevResult from earlier plugin');
});

test("by iptables: the administrator's chain, answers, and all that pods send", (t) => {
  const { elements, bridgeElements, iptables } = rows({ iptablesAdminChainName: 'ADMIN' });
  t.deepEqual([elements, bridgeElements], [[], []]);
  t.deepEqual(
    iptables.filter((row) => row.family === 4).map(({ chain, rule }) => `${chain} ${rule}`),
    [
      'FAIRLEAD-ADMIN -s 10.1.0.5/32 -j ADMIN',
      'FAIRLEAD-ADMIN -d 10.1.0.5/32 -j ADMIN',
      'FAIRLEAD-ACCEPT -d 10.1.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
      'FAIRLEAD-ACCEPT -s 10.1.0.5/32 -j ACCEPT',
    ],
  );
  t.is(iptables[0]?.needs, 'ADMIN');
  t.is(iptables.length, 8);
});

test('by nftables: the addresses are elements', (t) => {
  t.deepEqual(rows({ backend: 'nftables' }), {
    elements: [
      { set: 'accept4', key: '0a010005' },
      { set: 'accept6', key: pod6 },
    ],
    bridgeElements: [],
    iptables: [],
    firewalld: [],
  });
});

test('by firewalld: the addresses are sources of its zone', (t) => {
  const inZone = (zone: string) => ({
    elements: [],
    bridgeElements: [],
    iptables: [],
    firewalld: [
      { zone, source: '10.1.0.5/32' },
      { zone, source: 'fd00:1::5/128' },
    ],
  });
  t.deepEqual(plan({ backend: 'firewalld' }), inZone('trusted') as never);
  t.deepEqual(plan({ backend: 'firewalld', firewalldZone: 'internal' }), inZone('internal') as never);
});

test('where no backend is named it is firewalld if that runs, else iptables; one that is named counts', (t) => {
  const filled = (config: object, hasFirewalld: boolean) => {
    const planned = plan(config, result, hasFirewalld);
    if (typeof planned === 'string') return planned;
    return Object.entries(planned).flatMap(([kind, list]) => (list.length === 0 ? [] : [kind]));
  };
  t.deepEqual(filled({}, true), ['firewalld']);
  t.deepEqual(filled({}, false), ['iptables']);
  t.deepEqual(filled({ backend: 'iptables' }, true), ['iptables']);
  t.deepEqual(filled({ backend: 'firewalld' }, false), ['firewalld']);
});

test('a policy is kept by nftables, whatever the backend', (t) => {
  const bridge = Buffer.from('cni0').toString('hex').padEnd(32, '0');
  const policed = [
    { set: 'bridge-of4', key: `0a010005${bridge}` },
    { set: 'policed4', key: '0a010005' },
    { set: 'bridge-of6', key: pod6 + bridge },
    { set: 'policed6', key: pod6 },
  ];
  t.deepEqual(rows({ ingressPolicy: 'same-bridge' }).elements, policed);
  t.deepEqual(rows({ ingressPolicy: 'same-bridge' }).bridgeElements, []);
  t.deepEqual(rows({ ingressPolicy: 'isolated' }).elements, policed);
  t.deepEqual(rows({ ingressPolicy: 'isolated' }).bridgeElements, [
    { set: 'isolated4', key: '0a010005' },
    { set: 'isolated6', key: pod6 },
  ]);
});
