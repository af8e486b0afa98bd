import test from 'ava';
import fc from 'fast-check';
import { type Family, families, type Ip } from '../../../core/address.ts';
import type { Views } from '../../../proxy/backend.ts';
import { compare, removal } from '../../../proxy/iptables/compare.ts';
import { nodePortMatches, ruleContext } from '../../../proxy/iptables/context.ts';
import { renderEdit } from '../../../proxy/iptables/edit.ts';
import { FamilyPlan, LARGE_CLUSTER_ENDPOINTS, planIptables } from '../../../proxy/iptables/plan.ts';
import { renderRule } from '../../../proxy/iptables/rule.ts';
import { targetOf } from '../../../proxy/iptables/save.ts';
import type { Endpoint, Frontend, ServicePortView } from '../../../proxy/view.ts';
import { FakeIptables } from './fake-iptables.ts';
import { policy, started } from './script.ts';

const address = (family: Family, network: number, host: number) =>
  (family === 4 ? `10.${network}.0.${host}` : `fd00:${network}::${host}`) as Ip;

function endpointsOf(family: Family): fc.Arbitrary<Endpoint[]> {
  const endpoint = fc.record({
    ip: fc.integer({ min: 1, max: 6 }).map((host) => address(family, 244, host)),
    port: fc.constantFrom(80, 8080, 0, 70_000, Number.NaN),
    local: fc.boolean(),
    weight: fc.integer({ min: 0, max: 3 }),
  });
  return fc.uniqueArray(endpoint, { maxLength: 4, selector: ({ ip, port }) => `${ip} ${port}` });
}

function frontendsOf(family: Family, service: number): fc.Arbitrary<Frontend[]> {
  const onAddress = fc.record({
    kind: fc.constantFrom('clusterIP', 'externalIP', 'loadBalancerIP'),
    ip: fc.integer({ min: 1, max: 3 }).map((host) => address(family, 96 + service, host)),
    port: fc.constantFrom(80, 443, -1),
  });
  const onNode = fc.record({ kind: fc.constant('nodePort' as const), port: fc.constant(30_000 + service) });
  return fc.array(fc.oneof(onAddress, onNode), { maxLength: 3 });
}

/** Anything that a view can be, and some that it should not be. */
function portOf(service: number): fc.Arbitrary<ServicePortView> {
  const name = fc.oneof(fc.constantFrom('http', '', '"; -j ACCEPT #', 'a\nCOMMIT'), fc.string());
  return fc.constantFrom(...families).chain((family) =>
    fc.record({
      name: name.map((port) => `default/s${service}:${port}`),
      family: fc.constant(family),
      protocol: fc.constantFrom('tcp', 'udp', 'sctp'),
      frontends: frontendsOf(family, service),
      clusterEndpoints: endpointsOf(family),
      localEndpoints: endpointsOf(family),
      internalPolicy: fc.constantFrom('Cluster', 'Local'),
      externalPolicy: fc.constantFrom('Cluster', 'Local'),
      hasAnyEndpoints: fc.boolean(),
      affinitySeconds: fc.option(fc.constantFrom(1, 10_800), { nil: undefined }),
      sourceRanges: fc.option(fc.constant([]), { nil: undefined }),
      balancing: fc.constantFrom('random', 'maglev'),
    }),
  );
}

const change = fc.integer({ min: 1, max: 3 }).chain((service) =>
  fc.record({
    service: fc.constant(`default/s${service}`),
    ports: fc.array(portOf(service), { maxLength: 3 }),
  }),
);

test('however services change, the kernel takes every step, and has what a new process would write', (t) => {
  const sequence = fc.array(change, { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(sequence, fc.constantFrom(...families), (changes, family) => {
      const context = ruleContext(family, policy, true);
      const { plan, kernel } = started(context, new FakeIptables(), new Map()).half;
      const views = new Map<string, readonly ServicePortView[]>();
      for (const { service, ports } of changes) {
        views.set(service, ports);
        plan.put(service, ports);
        kernel.restore(renderEdit(plan.drain()));
      }
      t.is(started(context, kernel, views).text, '');
      kernel.restore(renderEdit(removal(kernel.saved())));
      const left = [...kernel.saved().keys()].filter((key) => key.includes('KUBE'));
      t.deepEqual(left, family === 4 ? ['filter KUBE-FIREWALL'] : []);
    }),
    { numRuns: 200 },
  );
});

test('whatever is in our chains, a new process makes it what the services say', (t) => {
  const context = ruleContext(4, policy, true);
  fc.assert(
    fc.property(fc.array(change, { maxLength: 3 }), fc.array(change, { maxLength: 3 }), (before, after) => {
      const views = (changes: typeof before): Views =>
        new Map(changes.map(({ service, ports }) => [service, ports]));
      const { kernel } = started(context, new FakeIptables(), views(before)).half;
      started(context, kernel, views(after));
      t.is(started(context, kernel, views(after)).text, '');
    }),
    { numRuns: 100 },
  );
});

const web: ServicePortView = {
  name: 'default/web:http',
  family: 4,
  protocol: 'tcp',
  frontends: [{ kind: 'clusterIP', ip: '10.96.0.10' as Ip, port: 80 }],
  clusterEndpoints: [{ ip: '10.244.1.5' as Ip, port: 8080, local: true, weight: 1 }],
  localEndpoints: [],
  internalPolicy: 'Cluster',
  externalPolicy: 'Cluster',
  hasAnyEndpoints: true,
  balancing: 'random',
};

test('a flushed kernel gets everything again', (t) => {
  const context = ruleContext(4, policy, true);
  const views = new Map([['default/web', [web]]]);
  const { kernel } = started(context, new FakeIptables(), views).half;
  const before = kernel.save();
  kernel.flush();
  started(context, kernel, views);
  t.is(kernel.save(), before);
});

test('what others jump to is emptied, or stays as long as they do', (t) => {
  const context = ruleContext(4, policy, true);
  const { kernel } = started(context, new FakeIptables(), new Map([['default/web', [web]]])).half;
  const chain =
    [...kernel.saved().keys()].find((key) => key.startsWith('nat KUBE-SVC-'))?.split(' ')[1] ?? '';
  kernel.restore(`*nat\n:OTHER - [0:0]\n-A OTHER -j ${chain}\n-A OTHER -g KUBE-MARK-MASQ\nCOMMIT\n`);
  started(context, kernel, new Map());
  t.deepEqual(kernel.saved().get(`nat ${chain}`), []);
  kernel.restore(renderEdit(removal(kernel.saved())));
  const left = [...kernel.saved().keys()].filter((key) => /KUBE|OTHER/.test(key));
  t.deepEqual(
    left.sort(),
    [
      'filter KUBE-FIREWALL',
      `nat ${chain}`,
      'nat KUBE-MARK-MASQ',
      'nat KUBE-POSTROUTING',
      'nat OTHER',
    ].sort(),
  );
});

test('KUBE-FIREWALL stays with its rules, whether there are signs of kubelet or not', (t) => {
  const context = ruleContext(4, policy, true);
  const left = (foreign: string) => {
    const { kernel } = started(context, new FakeIptables(), new Map([['default/web', [web]]])).half;
    kernel.restore(foreign);
    kernel.restore(renderEdit(removal(kernel.saved())));
    const saved = kernel.saved();
    return [saved.get('filter KUBE-FIREWALL')?.length, saved.get('filter INPUT')?.length];
  };
  t.deepEqual(left(''), [1, 1]);
  for (const chain of ['KUBE-KUBELET-CANARY', 'KUBE-IPTABLES-HINT'])
    t.deepEqual(left(`*mangle\n:${chain} - [0:0]\nCOMMIT\n`), [1, 1], chain);
  t.deepEqual(left('*filter\n-A KUBE-FIREWALL -s 192.0.2.1/32 -j DROP\nCOMMIT\n'), [2, 1]);
});

test('a comment cannot end itself', (t) => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.string({ unit: 'binary' })), (comment) => {
      const rule = renderRule({ comment, target: 'DROP' });
      t.regex(rule, /^-m comment --comment ("[^"\\\n']{0,255}"|[\w-]+) -j DROP$/);
      t.is(targetOf(rule), 'DROP');
    }),
  );
});

test('in a large cluster rules have no comments', (t) => {
  const endpoints = Array.from({ length: LARGE_CLUSTER_ENDPOINTS + 1 }, (_, index) => ({
    ip: `10.244.${index >> 8}.${index & 255}` as Ip,
    port: 8080,
    local: false,
    weight: 1,
  }));
  const context = ruleContext(4, policy, true);
  const rules = (count: number) =>
    planIptables(
      new Map([['default/web', [{ ...web, clusterEndpoints: endpoints.slice(0, count) }]]]),
      context,
    ).flatMap((chain) => chain.rules);
  t.true(rules(LARGE_CLUSTER_ENDPOINTS).some((rule) => rule.includes('default/web')));
  t.false(rules(LARGE_CLUSTER_ENDPOINTS + 1).some((rule) => rule.includes('default/web')));
});

test('node ports follow the addresses of the node, and stay the last rule', (t) => {
  const context = ruleContext(4, { ...policy, localhostNodePorts: false }, true);
  const { plan, kernel } = started(context, new FakeIptables(), new Map([['default/web', [web]]])).half;
  kernel.restore(renderEdit(plan.setNodePortIps(['192.0.2.1', '192.0.2.2'] as string[] as Ip[])));
  kernel.restore(renderEdit(plan.setNodePortIps(['192.0.2.2', '192.0.2.3'] as string[] as Ip[])));
  plan.put('default/other', [
    { ...web, name: 'default/other:http', frontends: [{ kind: 'nodePort', port: 30_001 }] },
  ]);
  kernel.restore(renderEdit(plan.drain()));
  const targets = kernel
    .saved()
    .get('nat KUBE-SERVICES')
    ?.map((rule) => `${/-d (\S+)/.exec(rule)?.[1]} ${targetOf(rule)}`);
  t.deepEqual(targets, [
    '10.96.0.10/32 KUBE-SVC-CDGGSHYLG3RE2FKL',
    '192.0.2.2/32 KUBE-NODEPORTS',
    '192.0.2.3/32 KUBE-NODEPORTS',
  ]);
  t.is(renderEdit(compare(plan, context, kernel.saved())), '');
});

test('a frontend goes from one service to another in either order', (t) => {
  const context = ruleContext(4, policy, true);
  const other = { ...web, name: 'default/other:http' };
  for (const order of [0, 1]) {
    const { plan, kernel } = started(context, new FakeIptables(), new Map([['default/web', [web]]])).half;
    const changes = [
      ['default/web', []],
      ['default/other', [other]],
    ] as const;
    for (const [service, ports] of order === 0 ? changes : changes.toReversed()) plan.put(service, ports);
    kernel.restore(renderEdit(plan.drain()));
    t.is(started(context, kernel, new Map([['default/other', [other]]])).text, '');
  }
});

test('127.0.0.1 has node ports where the policy says so, in IPv4', (t) => {
  const opens = (part: object, family: Family = 4) =>
    ruleContext(family, { ...policy, ...part }, true).localhostNodePorts;
  t.true(opens({}));
  t.true(opens({ nodePortAddresses: ['127.0.0.0/8'] }));
  t.false(opens({ nodePortAddresses: ['192.0.2.0/24'] }));
  t.false(opens({ nodePortAddresses: 'primary' }));
  t.false(opens({ localhostNodePorts: false }));
  t.false(opens({}, 6));
  const matches = nodePortMatches(
    ['192.0.2.1', '127.0.0.1'] as string[] as Ip[],
    ruleContext(4, policy, true),
  );
  t.deepEqual(matches, [{ destination: '192.0.2.1/32' }, { destination: '127.0.0.0/8' }]);
});

test('a policy that is no rule is refused with the field', (t) => {
  const bad = (part: object) => t.throws(() => ruleContext(4, { ...policy, ...part }, true))?.message;
  t.is(bad({ masqueradeBit: 32 }), 'masqueradeBit 32: a number from 0 to 31 is expected');
  const name = 'cni0 -j ACCEPT';
  t.is(
    bad({ detectLocal: { mode: 'bridge', name } }),
    `detectLocal.name "${name}": the name of an interface is expected`,
  );
});

test('pods are told by bridge, by prefix, by several networks, or not at all', (t) => {
  const marking = (detectLocal: (typeof policy)['detectLocal'], masqueradeAll = false) => {
    const context = ruleContext(4, { ...policy, detectLocal, masqueradeAll }, true);
    return planIptables(new Map([['default/web', [web]]]), context)
      .filter(({ name }) => /KUBE-SVC-|OUTSIDE/.test(name))
      .flatMap(({ rules }) => rules.filter((rule) => /MARK|RETURN/.test(rule)))
      .map((rule) => rule.replace(/ -m comment --comment ".*?"/, ''));
  };
  const to = '-d 10.96.0.10/32 -p tcp -m tcp --dport 80';
  const toIn = (match: string) => `-d 10.96.0.10/32 ${match} -p tcp -m tcp --dport 80`;
  t.deepEqual(marking({ mode: 'none' }), []);
  t.deepEqual(marking({ mode: 'none' }, true), [`${to} -j KUBE-MARK-MASQ`]);
  t.deepEqual(marking({ mode: 'bridge', name: 'cni0' }), [`${toIn('! -i cni0')} -j KUBE-MARK-MASQ`]);
  t.deepEqual(marking({ mode: 'interfacePrefix', prefix: 'veth' }), [
    `${toIn('! -i veth+')} -j KUBE-MARK-MASQ`,
  ]);
  const cidrs = ['10.244.0.0/16', '10.245.0.0/16', 'fd00::/8'] as string[] as ['10.244.0.0/16' & never];
  t.deepEqual(marking({ mode: 'cidrs', cidrs }), [
    '-s 10.244.0.0/16 -j RETURN',
    '-s 10.245.0.0/16 -j RETURN',
    '-j KUBE-MARK-MASQ',
    `${to} -j KUBE-MARK-OUTSIDE`,
  ]);
});

test('maglev is a problem of the service, for as long as it asks for it', (t) => {
  const plan = new FamilyPlan(ruleContext(4, policy, true), 'all');
  plan.put('default/web', [{ ...web, balancing: 'maglev' }]);
  t.regex(plan.problems.get('default/web') ?? '', /maglev/);
  plan.put('default/web', [web]);
  t.is(plan.problems.size, 0);
});
