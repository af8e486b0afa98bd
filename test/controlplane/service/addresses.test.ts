import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { startControlPlane } from '../../../controlplane/main.ts';
import { type Cidr, cidrContains, parseIp } from '../../../core/address.ts';
import { KubeClient } from '../../../kube/client.ts';
import { SERVICES, type V1Service } from '../../../kube/types.ts';
import { type Answer, cidrs, service, silent, startTestServer } from '../server.ts';

const server = await startTestServer();
const single = await startTestServer({ serviceCidrs: cidrs('10.97.0.0/28') });
test.after.always(async () => {
  await server[Symbol.asyncDispose]();
  await single[Symbol.asyncDispose]();
});

const [v4, v6] = cidrs('10.96.0.0/16', 'fd00:10:96::/112');
const path = (namespace: string, name = '') =>
  `/api/v1/namespaces/${namespace}/services${name === '' ? '' : `/${name}`}`;
const merge = { 'content-type': 'application/merge-patch+json' };

async function create(spec: object, on = server): Promise<Answer & { at: string }> {
  const namespace = await on.namespace();
  return {
    ...(await on.call('POST', path(namespace), service('a', namespace, spec))),
    at: path(namespace, 'a'),
  };
}

const causes = ({ body }: Answer) =>
  (body.details?.causes ?? []).map(
    ({ field, message }: { field: string; message: string }) => `${field}: ${message}`,
  );

function within(cidr: Cidr | undefined, text: string | undefined): boolean {
  const ip = parseIp(text ?? '');
  return cidr !== undefined && ip !== undefined && cidrContains(cidr, ip);
}

test('a service gets an address of the default family, and every default', async (t) => {
  const { status, body } = await create({ ports: [{ port: 80 }] });
  t.is(status, 201);
  const { clusterIP, clusterIPs, ...spec } = body.spec;
  t.true(within(v4, clusterIP));
  t.deepEqual(clusterIPs, [clusterIP]);
  t.deepEqual(spec, {
    type: 'ClusterIP',
    ports: [{ port: 80, protocol: 'TCP', targetPort: 80 }],
    sessionAffinity: 'None',
    internalTrafficPolicy: 'Cluster',
    ipFamilies: ['IPv4'],
    ipFamilyPolicy: 'SingleStack',
  });
  t.deepEqual(body.status, { loadBalancer: {} });
});

test('addresses that are given out unasked are unique, and above the static band', async (t) => {
  const given = await Promise.all(Array.from({ length: 40 }, () => create({})));
  const ips = given.map(({ body }) => body.spec.clusterIP);
  t.is(new Set(ips).size, 40);
  for (const ip of ips) t.false(ip.startsWith('10.96.0.') && Number(ip.split('.')[3]) <= 255, ip);
});

test('a dual-stack service gets one address of each family', async (t) => {
  for (const spec of [
    { ipFamilyPolicy: 'PreferDualStack' },
    { ipFamilyPolicy: 'RequireDualStack' },
    { ipFamilies: ['IPv4', 'IPv6'] },
  ]) {
    const { body } = await create(spec);
    t.deepEqual(body.spec.ipFamilies, ['IPv4', 'IPv6']);
    t.true(within(v4, body.spec.clusterIPs[0]) && within(v6, body.spec.clusterIPs[1]));
  }
  const { body } = await create({ ipFamilies: ['IPv6', 'IPv4'], ipFamilyPolicy: 'PreferDualStack' });
  t.true(within(v6, body.spec.clusterIP) && within(v4, body.spec.clusterIPs[1]));
});

test('a family can be chosen', async (t) => {
  const { body } = await create({ ipFamilies: ['IPv6'] });
  t.true(within(v6, body.spec.clusterIP));
  t.is(body.spec.ipFamilyPolicy, 'SingleStack');
});

test('where the cluster has one family, preferring two gives one and requiring two is 422', async (t) => {
  const { body } = await create({ ipFamilyPolicy: 'PreferDualStack' }, single);
  t.deepEqual(body.spec.ipFamilies, ['IPv4']);
  const refused = await create({ ipFamilyPolicy: 'RequireDualStack' }, single);
  t.is(refused.status, 422);
  t.true(causes(refused)[0].includes('this cluster is not configured for dual-stack services'));
  t.is((await create({ ipFamilies: ['IPv6'] }, single)).status, 422);
});

test('a headless service has no address; without selector it is of both families', async (t) => {
  const chosen = await create({ clusterIP: 'None', selector: { app: 'x' } });
  t.deepEqual(chosen.body.spec.clusterIPs, ['None']);
  t.deepEqual(chosen.body.spec.ipFamilies, ['IPv4']);
  const free = await create({ clusterIP: 'None', ports: undefined });
  t.is(free.status, 201);
  t.deepEqual(free.body.spec.ipFamilies, ['IPv4', 'IPv6']);
  t.is(free.body.spec.ipFamilyPolicy, 'RequireDualStack');
});

test('an asked address is given once, and again after the service is gone', async (t) => {
  const first = await create({ clusterIP: '10.96.0.10' });
  t.is(first.body.spec.clusterIP, '10.96.0.10');
  const second = await create({ clusterIP: '10.96.0.10' });
  t.is(second.status, 422);
  t.deepEqual(causes(second), [
    'spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: provided IP is already allocated',
  ]);
  await server.call('DELETE', first.at);
  t.is((await create({ clusterIP: '10.96.0.10' })).status, 201);
});

test('an address outside of the range, or at its ends, is refused', async (t) => {
  for (const clusterIP of ['10.95.0.1', '10.96.0.0', '10.96.255.255', 'fd00:10:96::', 'fd00:10:97::1']) {
    const answer = await create({ clusterIP });
    t.is(answer.status, 422, clusterIP);
    t.true(causes(answer)[0].includes('is not in the valid range'), clusterIP);
  }
  t.is((await create({ clusterIP: 'fd00:10:96::ffff' })).status, 201);
});

test('a full range is refused, and freed addresses are given out again', async (t) => {
  // 13 of 14: the first one is left to the API's own service.
  const given: (Answer & { at: string })[] = [];
  for (let answer = await create({}, single); answer.status === 201; answer = await create({}, single))
    given.push(answer);
  t.true(given.length >= 12 && given.length <= 13);
  t.false(given.some(({ body }) => body.spec.clusterIP === '10.97.0.1'));
  t.is((await create({ clusterIP: '10.97.0.1' }, single)).status, 201);
  await single.call('DELETE', given[3]?.at ?? '');
  t.is((await create({}, single)).body.spec.clusterIP, given[3]?.body.spec.clusterIP);
});

test('node ports are given from the range, one for all protocols of a port', async (t) => {
  const ports = [
    { name: 'dns', port: 53, protocol: 'UDP' },
    { name: 'dns-tcp', port: 53 },
    { name: 'http', port: 80 },
  ];
  const { body } = await create({ type: 'NodePort', ports });
  const [udp, tcp, web] = body.spec.ports.map(({ nodePort }: { nodePort: number }) => nodePort);
  t.is(udp, tcp);
  t.not(udp, web);
  for (const port of [udp, web]) t.true(port >= 30_086 && port <= 32_767, String(port));
  t.is(body.spec.externalTrafficPolicy, 'Cluster');
});

test('an asked node port is given once, must be in the range, and needs a type that has it', async (t) => {
  const ask = (nodePort: number, type = 'NodePort') => create({ type, ports: [{ port: 80, nodePort }] });
  const first = await ask(30_001);
  t.is(first.status, 201);
  const second = await ask(30_001);
  t.deepEqual(
    [second.status, causes(second)],
    [422, ['spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated']],
  );
  t.is((await ask(29_999)).status, 422);
  t.is((await ask(30_002, 'ClusterIP')).status, 422);
  await server.call('DELETE', first.at);
  t.is((await ask(30_001)).status, 201);
});

test('a refused service leaves nothing taken', async (t) => {
  const refused = await create({
    type: 'NodePort',
    clusterIP: '10.96.0.77',
    ports: [{ port: 80, nodePort: 1 }],
  });
  t.is(refused.status, 422);
  t.is((await create({ clusterIP: '10.96.0.77' })).status, 201);
});

test('a load balancer that keeps client addresses has a health port', async (t) => {
  const { body, at } = await create({ type: 'LoadBalancer', externalTrafficPolicy: 'Local' });
  t.true(body.spec.healthCheckNodePort >= 30_000);
  t.true(body.spec.allocateLoadBalancerNodePorts);
  const patched = await server.call('PATCH', at, { spec: { externalTrafficPolicy: 'Cluster' } }, merge);
  t.is(patched.body.spec.healthCheckNodePort, undefined);
});

test('an update that leaves out addresses and ports keeps them', async (t) => {
  const { body, at } = await create({ type: 'NodePort', ipFamilyPolicy: 'PreferDualStack' });
  const plain = {
    metadata: body.metadata,
    spec: { type: 'NodePort', ports: [{ port: 80 }], selector: { x: '1' } },
  };
  const updated = await server.call('PUT', at, plain);
  t.deepEqual(updated.body.spec.clusterIPs, body.spec.clusterIPs);
  t.is(updated.body.spec.ports[0].nodePort, body.spec.ports[0].nodePort);
  t.is(updated.body.spec.ipFamilyPolicy, 'PreferDualStack');
});

test('the address of a service does not change', async (t) => {
  const { at } = await create({});
  for (const spec of [{ clusterIP: '10.96.0.99' }, { clusterIP: '10.96.0.99', clusterIPs: ['10.96.0.99'] }]) {
    const answer = await server.call('PATCH', at, { spec }, merge);
    t.is(answer.status, 422);
    t.true(causes(answer)[0].includes('may not change once set'));
  }
});

test('changes of type give and free what the types have', async (t) => {
  const to = (at: string, spec: object) => server.call('PATCH', at, { spec }, merge);
  const { body, at } = await create({ clusterIP: '10.96.0.50' });
  t.is(body.spec.clusterIP, '10.96.0.50');
  const external = await to(at, { type: 'ExternalName', externalName: 'example.com' });
  t.is(external.status, 200);
  for (const field of ['clusterIP', 'clusterIPs', 'ipFamilies', 'ipFamilyPolicy'])
    t.false(field in external.body.spec, field);
  t.is((await create({ clusterIP: '10.96.0.50' })).status, 201);
  const open = await to(at, { type: 'NodePort', externalName: null });
  t.is(open.status, 200);
  const port = open.body.spec.ports[0].nodePort;
  t.true(within(v4, open.body.spec.clusterIP) && port >= 30_000);
  const closed = await to(at, { type: 'ClusterIP' });
  t.false('nodePort' in closed.body.spec.ports[0]);
  t.false('externalTrafficPolicy' in closed.body.spec);
  t.is((await create({ type: 'NodePort', ports: [{ port: 80, nodePort: port }] })).status, 201);
});

test('a service goes to two families and back', async (t) => {
  const { body, at } = await create({});
  const two = await server.call('PATCH', at, { spec: { ipFamilyPolicy: 'PreferDualStack' } }, merge);
  t.is(two.body.spec.clusterIPs.length, 2);
  t.is(two.body.spec.clusterIP, body.spec.clusterIP);
  const one = await server.call('PATCH', at, { spec: { ipFamilyPolicy: 'SingleStack' } }, merge);
  t.deepEqual(one.body.spec.clusterIPs, [body.spec.clusterIP]);
  t.deepEqual(one.body.spec.ipFamilies, ['IPv4']);
  t.is((await create({ clusterIP: two.body.spec.clusterIPs[1] })).status, 201);
});

test('client affinity lasts three hours unless said otherwise', async (t) => {
  const { body } = await create({ sessionAffinity: 'ClientIP' });
  t.deepEqual(body.spec.sessionAffinityConfig, { clientIP: { timeoutSeconds: 10_800 } });
});

const invalidSpecs: Readonly<Record<string, readonly [spec: object, fields: readonly string[]]>> = {
  'no ports': [{ ports: [] }, ['spec.ports']],
  'ports without names': [
    { ports: [{ port: 1 }, { port: 2 }] },
    ['spec.ports[0].name', 'spec.ports[1].name'],
  ],
  'a name twice': [
    {
      ports: [
        { name: 'a', port: 1 },
        { name: 'a', port: 2 },
      ],
    },
    ['spec.ports[1].name'],
  ],
  'a port twice': [
    {
      ports: [
        { name: 'a', port: 1 },
        { name: 'b', port: 1 },
      ],
    },
    ['spec.ports[1]'],
  ],
  'a port name': [{ ports: [{ name: 'A_b', port: 1 }] }, ['spec.ports[0].name']],
  'a target port': [{ ports: [{ port: 1, targetPort: 70_000 }] }, ['spec.ports[0].targetPort']],
  'a target name': [{ ports: [{ port: 1, targetPort: 'NOT' }] }, ['spec.ports[0].targetPort']],
  'type and affinity': [{ type: 'X', sessionAffinity: 'Y' }, ['spec.type', 'spec.sessionAffinity']],
  policies: [{ internalTrafficPolicy: 'X' }, ['spec.internalTrafficPolicy']],
  'an outer policy without outside': [{ externalTrafficPolicy: 'Local' }, ['spec.externalTrafficPolicy']],
  'no external name': [{ type: 'ExternalName' }, ['spec.externalName']],
  'an address of ExternalName': [
    { type: 'ExternalName', externalName: 'x', clusterIP: '10.96.0.3' },
    ['spec.clusterIP'],
  ],
  'an address': [{ clusterIP: '10.96.0.300' }, ['spec.clusterIPs[0]']],
  'None beside an address': [{ clusterIP: 'None', clusterIPs: ['None', '10.96.0.3'] }, ['spec.clusterIPs']],
  'two addresses of a family': [{ clusterIPs: ['10.96.0.3', '10.96.0.4'] }, ['spec.clusterIPs']],
  'address against family': [{ clusterIP: '10.96.0.3', ipFamilies: ['IPv6'] }, ['spec.clusterIPs[0]']],
  'a family twice': [{ ipFamilies: ['IPv4', 'IPv4'] }, ['spec.ipFamilies[1]']],
  'two families single-stack': [
    { ipFamilies: ['IPv4', 'IPv6'], ipFamilyPolicy: 'SingleStack' },
    ['spec.ipFamilyPolicy'],
  ],
  'external addresses': [{ externalIPs: ['x'] }, ['spec.externalIPs[0]']],
  'source ranges': [
    { type: 'LoadBalancer', loadBalancerSourceRanges: ['1.2.3.4'] },
    ['spec.loadBalancerSourceRanges[0]'],
  ],
  'a selector': [{ selector: { 'a b': 'x' } }, ['spec.selector']],
  'too long an affinity': [
    { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 90_000 } } },
    ['spec.sessionAffinityConfig.clientIP.timeoutSeconds'],
  ],
};

for (const [what, [spec, fields]] of Object.entries(invalidSpecs)) {
  test(`an invalid service is refused by field: ${what}`, async (t) => {
    const { status, body } = await create(spec);
    t.is(status, 422);
    t.deepEqual(
      body.details.causes.map(({ field }: { field: string }) => field),
      [...fields],
    );
  });
}

test('after a restart nothing that services hold is given out again', async (t) => {
  const stateDir = mkdtempSync(join(tmpdir(), 'fairlead-restart-'));
  t.teardown(() => rmSync(stateDir, { recursive: true }));
  const held: V1Service[] = [];
  for (let round = 0; round < 3; round += 1) {
    await using controlPlane = await startControlPlane({
      stateDir,
      listeners: [{ host: '127.0.0.1', port: 0 }],
      clusterCidrs: [],
      serviceCidrs: cidrs('10.98.0.0/27'),
      log: silent,
    });
    using client = new KubeClient({ server: controlPlane.urls[0] ?? '', token: controlPlane.token });
    for (let i = 0; i < 8; i += 1) {
      held.push(
        await client.create<V1Service>(SERVICES, service(`s${round}${i}`, 'default', { type: 'NodePort' })),
      );
    }
  }
  t.is(new Set(held.map(({ spec }) => spec?.clusterIP)).size, 24);
  t.is(new Set(held.map(({ spec }) => spec?.ports?.[0]?.nodePort)).size, 24);
});
