import { isDeepStrictEqual } from 'node:util';
import test from 'ava';
import fc from 'fast-check';
import type { Logger } from 'pino';
import { familyOf, type Ip, parseCidr, parseIp } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { V1EndpointSlice, V1Service } from '../../kube/types.ts';
import { frontendKey } from '../../proxy/claims.ts';
import { ProblemLog } from '../../proxy/problem-log.ts';
import type { Endpoint, Frontend, ServicePortView } from '../../proxy/view.ts';
import { ServiceViews } from '../../proxy/views.ts';
import { nonsenseService, nonsenseSlice } from './nonsense.ts';
import { parseService, parseSlice } from './objects.ts';

const node = { nodeName: 'here', zone: 'a', nodeIps: ['192.0.2.1' as Ip] };
const good = parseService('good/web type=NodePort ips=10.96.0.10,fd00:96::10 ports=http:80@30080');
const goodSlice = parseSlice('good/web-1 service=web ports=http:8080 10.244.1.5,node=here 10.244.1.6');

/** Bad services, a bad slice for each, and one for the good service. */
const world = fc.record({
  services: fc.tuple(nonsenseService('bad', 'a'), nonsenseService('bad', 'b')),
  slices: fc.tuple(nonsenseSlice('bad', 'a-1', 'a'), nonsenseSlice('bad', 'b-1', 'b')),
  stray: nonsenseSlice('good', 'web-2', 'web'),
});

function viewsOf(services: ReadonlyMap<string, V1Service>, slices: ReadonlyMap<string, V1EndpointSlice>) {
  const views = new ServiceViews({ services, slices }, node);
  for (const key of services.keys()) views.markService(key);
  for (const key of slices.keys()) views.markSlice(key);
  return views;
}

function stores({ services, slices, stray }: typeof world extends fc.Arbitrary<infer T> ? T : never) {
  const [a, b] = services;
  const [a1, b1] = slices;
  return {
    services: new Map([
      ['good/web', good],
      ['bad/a', a],
      ['bad/b', b],
    ]),
    slices: new Map([
      ['good/web-1', goodSlice],
      ['good/web-2', stray],
      ['bad/a-1', a1],
      ['bad/b-1', b1],
    ]),
  };
}

function check(condition: boolean, what: unknown): void {
  if (!condition) throw new Error(JSON.stringify(what));
}

const isPort = (port: number) => Number.isInteger(port) && port > 0 && port < 65_536;

function checkView(port: ServicePortView): void {
  const { family, frontends, clusterEndpoints, localEndpoints, sourceRanges, affinitySeconds } = port;
  const isOurs = (ip: Ip) => parseIp(ip) === ip && familyOf(ip) === family;
  const isGood = (frontend: Frontend) =>
    isPort(frontend.port) && (frontend.kind === 'nodePort' || isOurs(frontend.ip));
  check(frontends.length > 0 && frontends.every(isGood), port);
  const isUsable = ({ ip, port: number, weight }: Endpoint) => isOurs(ip) && isPort(number) && weight >= 0;
  for (const list of [clusterEndpoints, localEndpoints]) {
    check(list.every(isUsable), port);
    check(list.length === 0 || list.some(({ weight }) => weight > 0), port);
    check(new Set(list.map(({ ip, port: number }) => `${ip} ${number}`)).size === list.length, port);
    check(port.hasAnyEndpoints || list.length === 0, port);
  }
  check(
    localEndpoints.every(({ local }) => local),
    port,
  );
  check(sourceRanges === undefined || sourceRanges.length > 0, port);
  check(
    (sourceRanges ?? []).every((cidr) => parseCidr(cidr) === cidr && familyOf(cidr) === family),
    port,
  );
  check(affinitySeconds === undefined || (affinitySeconds > 0 && affinitySeconds <= 86_400), port);
}

test('whatever stands in the objects, views hold only what a backend can do, each frontend once', (t) => {
  fc.assert(
    fc.property(world, (given) => {
      const { services, slices } = stores(given);
      const views = viewsOf(services, slices);
      views.refresh();
      const ports = [...views.current.values()].flat();
      for (const port of ports) checkView(port);
      const keys = ports.flatMap((port) => port.frontends.map((frontend) => frontendKey(port, frontend)));
      check(new Set(keys).size === keys.length, keys);
      const names = ports.map(({ name, family, protocol }) => `${name} ${family} ${protocol}`);
      check(new Set(names).size === names.length, names);
      for (const { port, localReadyEndpoints } of views.healthChecks.values())
        check(isPort(port) && Number.isInteger(localReadyEndpoints), port);
    }),
    { numRuns: 1_000 },
  );
  t.pass();
});

test('a good service is served as if the bad ones were not there', (t) => {
  const alone = viewsOf(new Map([['good/web', good]]), new Map([['good/web-1', goodSlice]]));
  alone.refresh();
  const wanted = alone.current.get('good/web');
  fc.assert(
    fc.property(world, (given) => {
      const { services, slices } = stores(given);
      slices.delete('good/web-2');
      const views = viewsOf(services, slices);
      views.refresh();
      check(isDeepStrictEqual(views.current.get('good/web'), wanted), views.current.get('good/web'));
      check(!views.problems.has('good/web'), views.problems.get('good/web'));
    }),
    { numRuns: 300 },
  );
  t.pass();
});

test('a bad slice takes nothing from the good slices of its service', (t) => {
  fc.assert(
    fc.property(world, (given) => {
      const { services, slices } = stores(given);
      const views = viewsOf(services, slices);
      views.refresh();
      const [port] = views.current.get('good/web') ?? [];
      const ips = port?.clusterEndpoints.map(({ ip }) => ip as string) ?? [];
      check(ips.includes('10.244.1.5') && ips.includes('10.244.1.6'), ips);
    }),
    { numRuns: 300 },
  );
  t.pass();
});

test('problems are said once, with the name of the service and of the slice', (t) => {
  fc.assert(
    fc.property(world, (given) => {
      const { services, slices } = stores(given);
      const views = viewsOf(services, slices);
      const said: { service: string; problem: string }[] = [];
      const log = { warn: (fields: (typeof said)[number]) => said.push(fields), info: () => {} };
      const problems = new ProblemLog(log as unknown as Logger);
      for (let round = 0; round < 3; round += 1) {
        for (const key of services.keys()) views.markService(key);
        views.refresh();
        problems.report(views.problems, new Map());
      }
      check(
        isDeepStrictEqual(said.map(({ service }) => service).sort(), [...views.problems.keys()].sort()),
        said,
      );
      const hasName = ({ path }: Problem) => /^(service|endpointslice (web|a|b)-\d): /.test(path);
      check([...views.problems.values()].flat().every(hasName), [...views.problems.values()]);
    }),
    { numRuns: 300 },
  );
  t.pass();
});

/** Services as they may be, over few addresses, so that they quarrel; and slices that change hands. */
const step = fc.oneof(
  fc.record({ key: fc.constantFrom('bad/a', 'bad/b'), service: fc.option(nonsenseService('bad', 'x')) }),
  fc.constantFrom('a', 'b').chain((service) =>
    fc.record({
      key: fc.constantFrom('bad/1', 'bad/2'),
      slice: fc.option(nonsenseSlice('bad', '1', service)),
    }),
  ),
);

test('views kept current change by change are those made at once', (t) => {
  fc.assert(
    fc.property(fc.array(fc.array(step, { minLength: 1, maxLength: 3 }), { maxLength: 8 }), (batches) => {
      const services = new Map<string, V1Service>();
      const slices = new Map<string, V1EndpointSlice>();
      const views = viewsOf(services, slices);
      const followed = new Map<string, readonly ServicePortView[]>();
      for (const batch of batches) {
        for (const each of batch) {
          if ('service' in each) put(services, each.key, each.service);
          else put(slices, each.key, each.slice);
          if ('service' in each) views.markService(each.key);
          else views.markSlice(each.key);
        }
        for (const [service, ports] of views.refresh())
          put(followed, service, ports.length > 0 ? ports : null);
      }
      const fresh = viewsOf(services, slices);
      fresh.refresh();
      const sorted = (map: ReadonlyMap<string, unknown>) => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
      check(isDeepStrictEqual(sorted(views.current), sorted(fresh.current)), sorted(views.current));
      check(isDeepStrictEqual(sorted(views.problems), sorted(fresh.problems)), sorted(views.problems));
      check(isDeepStrictEqual(sorted(views.healthChecks), sorted(fresh.healthChecks)), 'health checks');
      check(isDeepStrictEqual(sorted(followed), sorted(fresh.current)), sorted(followed));
    }),
    { numRuns: 1_000 },
  );
  t.pass();
});

function put<V>(map: Map<string, V>, key: string, value: V | null): void {
  if (value === null) map.delete(key);
  else map.set(key, value);
}
