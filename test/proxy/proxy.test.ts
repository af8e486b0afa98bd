import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { Cidr } from '../../core/address.ts';
import { ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES, type V1Node } from '../../kube/types.ts';
import { defaultPolicy } from '../../proxy/policy.ts';
import type { ProxyPass } from '../../proxy/proxy.ts';
import { parseService, parseSlice } from './objects.ts';
import { setUp, until } from './stage.ts';

const web = parseService('default/web ips=10.96.0.10 ports=http:80');
const webSlice = parseSlice('default/web-1 service=web ports=http:8080 10.244.1.5 10.244.1.6');

test('nothing is written before both services and endpoint slices are known', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  api.put(ENDPOINT_SLICES, webSlice);
  api.hold(ENDPOINT_SLICES);
  const proxy = start();
  await sleep(50);
  t.deepEqual(backend.calls, []);
  t.false(proxy.status().synced);
  api.release(ENDPOINT_SLICES);
  await proxy.synced;
  t.deepEqual(backend.calls, ['replace default/web=2']);
  t.like(proxy.status(), { synced: true, services: 1, endpoints: 2, writes: 1, fullSyncs: 1, failures: 0 });
});

test('views are made while something is still waited for, of services that have endpoints', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web, parseService('default/early ips=10.96.0.11 ports=http:80'));
  api.put(ENDPOINT_SLICES, webSlice);
  api.hold(SERVICE_CIDRS);
  const proxy = start();
  while (proxy.views.size === 0) await sleep(5);
  t.deepEqual([...proxy.views.keys()], ['default/web']);
  t.deepEqual(backend.calls, []);
  api.release(SERVICE_CIDRS);
  await proxy.synced;
  t.deepEqual(backend.calls, ['replace default/early=0 default/web=2']);
});

test('services of other proxies, headless services and their slices are not asked for', async (t) => {
  const { api, start } = setUp(t);
  await start().synced;
  t.deepEqual(api.selectors.get('services'), {
    labelSelector: '!service.kubernetes.io/service-proxy-name',
    fieldSelector: 'spec.clusterIP!=None',
  });
  t.deepEqual(api.selectors.get('endpointslices'), {
    labelSelector: '!service.kubernetes.io/headless',
    fieldSelector: undefined,
  });
});

test('a change brings its own service to the backend, several in a burst together', async (t) => {
  const { api, start, called } = setUp(t);
  api.put(SERVICES, web, parseService('default/api ips=10.96.0.11 ports=http:80'));
  api.put(ENDPOINT_SLICES, webSlice);
  await start().synced;
  api.put(ENDPOINT_SLICES, parseSlice('default/web-1 service=web ports=http:8080 10.244.1.5'));
  t.is((await called(2))[1], 'update default/web=1');
  api.delete(SERVICES, 'default/web');
  api.put(ENDPOINT_SLICES, parseSlice('default/api-1 service=api ports=http:8080 10.244.1.9'));
  t.is((await called(3))[2], 'update default/api=1 default/web=gone');
});

test('after a failure everything is read back and written again', async (t) => {
  const { api, backend, start, called } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start();
  await proxy.synced;
  backend.failNext = 1;
  api.put(ENDPOINT_SLICES, webSlice);
  t.deepEqual((await called(3)).slice(1), ['update default/web=2', 'replace default/web=2']);
  t.is(proxy.status().failures, 0);
});

test('passes that fail one after the other are counted', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  backend.failNext = 2;
  const proxy = start();
  await until(() => proxy.status().failures === 2);
  await proxy.synced;
  t.is(proxy.status().failures, 0);
});

test('the proxy is not synced as long as the first pass fails', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  backend.failNext = 1;
  const proxy = start();
  await until(() => proxy.status().failures === 1);
  t.false(proxy.status().synced);
  await proxy.synced;
  t.deepEqual(backend.calls, ['replace default/web=0', 'replace default/web=0']);
});

test('what others change is noticed', async (t) => {
  const { api, backend, start, called } = setUp(t);
  api.put(SERVICES, web);
  await start().synced;
  backend.disturbed = true;
  t.is((await called(2))[1], 'replace default/web=0');
});

test('a problem with an object is said once, and once that it is over', async (t) => {
  const { api, lines, start } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start();
  await proxy.synced;
  const bad = parseSlice('default/web-1 service=web ports=http:8080 nonsense');
  api.put(ENDPOINT_SLICES, bad);
  await until(() => proxy.status().updates === 1);
  api.put(ENDPOINT_SLICES, bad);
  await until(() => proxy.status().updates === 2);
  api.put(ENDPOINT_SLICES, webSlice);
  await until(() => proxy.status().updates === 3);
  const problems = lines.map((line) => JSON.parse(line)).filter(({ service }) => service !== undefined);
  t.deepEqual(
    problems.map(({ msg, problem }) => [msg, problem]),
    [
      ['service problem', 'endpointslice web-1: endpoints[0].addresses: is no IPv4 address: "nonsense"'],
      ['service is well again', undefined],
    ],
  );
});

test('what cannot be read of an object is left out, and the others go on', async (t) => {
  const { api, start, called } = setUp(t);
  api.put(SERVICES, web, parseService('default/api ips=10.96.0.11 ports=http:80'));
  api.put(ENDPOINT_SLICES, webSlice);
  await start().synced;
  api.put(ENDPOINT_SLICES, { ...webSlice, endpoints: 7 } as object);
  api.put(ENDPOINT_SLICES, parseSlice('default/api-1 service=api ports=http:8080 10.244.1.9'));
  t.is((await called(2))[1], 'update default/api=1 default/web=0');
});

test('a stopped proxy writes nothing more and lets go of its backend', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start();
  await proxy.synced;
  await proxy[Symbol.asyncDispose]();
  t.true(backend.disposed);
  api.put(ENDPOINT_SLICES, webSlice);
  await sleep(50);
  t.deepEqual(backend.calls, ['replace default/web=0']);
});

const node = (ip: string, zone = 'a'): V1Node => ({
  metadata: { name: 'here', labels: { 'topology.kubernetes.io/zone': zone } },
  status: { addresses: [{ type: 'InternalIP', address: ip }] },
});

test('the backend knows the node before the first services', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(NODES, node('192.0.2.1'));
  api.put(SERVICE_CIDRS, { metadata: { name: 'kubernetes' }, spec: { cidrs: ['10.96.0.0/16'] } } as object);
  await start({ nodeAddresses: undefined }).synced;
  t.deepEqual(backend.facts as unknown, [
    { nodePortIps: { 4: ['192.0.2.1'], 6: [] }, serviceCidrs: ['10.96.0.0/16'] },
  ]);
});

test('the first pass waits for the addresses of our Node', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start({ nodeAddresses: undefined });
  await sleep(100);
  t.deepEqual(backend.calls, []);
  api.put(NODES, node('192.0.2.1'));
  await proxy.synced;
  t.deepEqual(backend.facts.at(-1)?.nodePortIps[4] as unknown, ['192.0.2.1']);
});

test('an address of our Node and a service CIDR act at once, and touch no service', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(NODES, node('192.0.2.1'));
  api.put(SERVICES, web);
  await start({ nodeAddresses: undefined }).synced;
  api.put(NODES, node('192.0.2.2'));
  await until(() => backend.facts.length === 2);
  api.put(SERVICE_CIDRS, { metadata: { name: 'more' }, spec: { cidrs: ['10.97.0.0/16'] } } as object);
  await until(() => backend.facts.length === 3);
  t.deepEqual(backend.facts.at(-1) as unknown, {
    nodePortIps: { 4: ['192.0.2.2'], 6: [] },
    serviceCidrs: ['10.97.0.0/16'],
  });
  t.deepEqual(backend.calls, ['replace default/web=0']);
});

test('another zone makes the services that hint at zones anew, and only them', async (t) => {
  const { api, backend, start, called } = setUp(t);
  api.put(NODES, node('192.0.2.1', 'a'));
  api.put(SERVICES, web, parseService('default/api ips=10.96.0.11 ports=http:80'));
  const zones = '10.244.1.5,zones=a 10.244.1.6,zones=b 10.244.1.7,zones=b';
  api.put(ENDPOINT_SLICES, parseSlice(`default/web-1 service=web ports=http:8080 ${zones}`));
  api.put(ENDPOINT_SLICES, parseSlice('default/api-1 service=api ports=http:8080 10.244.1.9'));
  await start().synced;
  api.put(NODES, node('192.0.2.1', 'b'));
  t.deepEqual(await called(2), ['replace default/api=1 default/web=1', 'update default/web=2']);
  t.deepEqual(backend.facts.length, 1);
});

test('with a name of its own the proxy asks for the services that name it', async (t) => {
  const { api, start } = setUp(t);
  await start({ serviceProxyName: 'mine' }).synced;
  t.is(api.selectors.get('services')?.labelSelector, 'service.kubernetes.io/service-proxy-name=mine');
  t.is(api.selectors.get('nodes')?.fieldSelector, 'metadata.name=here');
});

test('observers hear what changed, from what to what, and when it happened; a failed pass is in the next', async (t) => {
  const { api, backend, start, called } = setUp(t);
  const passes: ProxyPass[] = [];
  const errors: string[] = [];
  api.put(SERVICES, web);
  const observer = {
    passed: (pass: ProxyPass) => passes.push(pass),
    failed: (error: Error) => errors.push(error.message),
  };
  const proxy = start({ observers: [observer] });
  await proxy.synced;
  backend.failNext = 1;
  const changed = 'changed=2026-01-01T00:00:00.5Z';
  api.put(ENDPOINT_SLICES, parseSlice(`default/web-1 service=web ports=http:8080 ${changed} 10.244.1.5`));
  await called(2);
  t.true((proxy.status().waitingSinceMs ?? 0) > 0);
  await until(() => passes.length === 2);
  t.deepEqual(errors, ['refused']);
  t.deepEqual(
    passes.map(({ kind, changed: views }) => [
      kind,
      Array.from(views, ([service, { before, after }]) => [service, counts(before), counts(after)]),
    ]),
    [
      ['full', [['default/web', [], [0]]]],
      ['full', [['default/web', [0], [1]]]],
    ],
  );
  t.deepEqual(passes[1]?.triggerTimesMs, [Date.parse('2026-01-01T00:00:00.500Z')]);
  t.is(passes[1]?.facts, passes[0]?.facts);
  t.is(proxy.status().waitingSinceMs, undefined);
});

test('endpoints that serve are named for UDP, and all for TCP where connections are to be reset', async (t) => {
  for (const resetTcp of [false, true]) {
    const { api, start } = setUp(t);
    api.put(SERVICES, parseService('default/web ips=10.96.0.10 ports=http:80,dns:53/UDP'));
    api.put(
      ENDPOINT_SLICES,
      parseSlice(
        'default/web-1 service=web ports=http:8080,dns:5353/UDP 10.244.1.5 10.244.1.6,ready=false,serving=false',
      ),
    );
    const proxy = start({ resetTcp });
    await proxy.synced;
    const serving = proxy.views.get('default/web')?.map(({ protocol, flowEndpoints }) => {
      return [protocol, flowEndpoints?.map(({ ip }) => ip)];
    });
    t.deepEqual(serving, [
      ['tcp', resetTcp ? ['10.244.1.5', '10.244.1.6'] : undefined],
      ['udp', ['10.244.1.5']],
    ]);
  }
});

test('what is wrong with a service, and why a pass failed, is there to be asked for', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web, parseService('default/bad ips=10.96.0.300 ports=http:80'));
  backend.failNext = 1;
  const proxy = start();
  await until(() => proxy.status().failures === 1);
  t.is(proxy.status().error, 'refused');
  await proxy.synced;
  t.is(proxy.status().error, undefined);
  t.deepEqual([...proxy.problems.keys()], ['default/bad']);
  t.regex(proxy.problems.get('default/bad') ?? '', /10\.96\.0\.300/);
});

const counts = (ports: readonly { clusterEndpoints: readonly unknown[] }[]) =>
  ports.map(({ clusterEndpoints }) => clusterEndpoints.length);

test('a change that means nothing writes nothing', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  api.put(ENDPOINT_SLICES, webSlice);
  const proxy = start();
  await proxy.synced;
  api.put(ENDPOINT_SLICES, { ...webSlice, metadata: { ...webSlice.metadata, annotations: { a: 'b' } } });
  await until(() => proxy.status().updates === 1);
  t.deepEqual(backend.calls, ['replace default/web=2']);
});

test('between two passes lies at least the time that was asked for', async (t) => {
  const { api, start, called } = setUp(t);
  api.put(SERVICES, web);
  const startMs = performance.now();
  await start({ minSyncPeriodMs: 150 }).synced;
  api.put(ENDPOINT_SLICES, webSlice);
  await called(2);
  t.true(performance.now() - startMs > 140);
});

test('node ports on networks follow the addresses of this machine', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  const networks = ['127.0.0.0/8', 'fd00:dead::/64'] as readonly string[] as readonly Cidr[];
  await start({ policy: { ...defaultPolicy, nodePortAddresses: networks } }).synced;
  t.deepEqual(backend.facts.at(-1)?.nodePortIps, { 4: [], 6: [] });
});
