import test from 'ava';
import type { Ip } from '../../../core/address.ts';
import { ruleContext } from '../../../proxy/iptables/context.ts';
import { FamilyChains } from '../../../proxy/iptables/family.ts';
import type { ServicePortView } from '../../../proxy/view.ts';
import { FakePrograms } from './fake-programs.ts';
import { policy } from './script.ts';

const endpoint = (host: number) =>
  ({ ip: `10.244.1.${host}` as Ip, port: 8080, local: true, weight: 1 }) as const;

function service(
  number: number,
  changes: Partial<ServicePortView> = {},
): readonly [string, ServicePortView[]] {
  const port: ServicePortView = {
    name: `default/s${number}:http`,
    family: 4,
    protocol: 'tcp',
    frontends: [{ kind: 'clusterIP', ip: `10.96.${number >> 8}.${number & 255}` as Ip, port: 80 }],
    clusterEndpoints: [endpoint(1)],
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    hasAnyEndpoints: true,
    balancing: 'random',
    ...changes,
  };
  return [`default/s${number}`, [port]];
}

const chains = () => new FamilyChains(ruleContext(4, policy, true), 'all');
const served = (programs: FakePrograms) =>
  (programs.kernel.saved().get('nat KUBE-SERVICES') ?? []).flatMap((rule) => {
    return /"default\/(s\d+):http cluster IP"/.exec(rule)?.[1] ?? [];
  });

test('services that need a match that is not there are left out, by name; the others are served', async (t) => {
  const programs = new FakePrograms();
  const views = new Map([
    service(1),
    service(2, { affinitySeconds: 600 }),
    service(3, { clusterEndpoints: [endpoint(1), endpoint(2)] }),
    service(4, { affinitySeconds: 600 }),
  ]);
  programs.refused = /-m recent /;
  const family = chains();
  await family.replace(programs, views);
  t.deepEqual(served(programs).sort(), ['s1', 's3']);
  const problem = 'left out: iptables or the kernel lacks the match "recent" (xt_recent)';
  t.deepEqual(family.problems, new Map([2, 4].map((number) => [`default/s${number}`, problem])));
  // Known from now on: nothing is tried.
  const before = programs.inputs.length;
  await family.update(programs, new Map([service(5, { affinitySeconds: 600 }), service(6)]));
  t.is(programs.inputs.length, before + 1);
  t.deepEqual(served(programs).sort(), ['s1', 's3', 's6']);
  t.is(family.problems.get('default/s5'), problem);
  // A service that no longer asks for it is served; when the match is there, a full pass finds out.
  await family.update(programs, new Map([service(2)]));
  t.true(served(programs).includes('s2'));
  programs.refused = undefined;
  await family.replace(programs, new Map([...views, service(2)]));
  t.deepEqual([served(programs).length, family.problems.size], [4, 0]);
});

test('without statistic, services with one endpoint are served; an update that is refused leaves the rest right', async (t) => {
  const programs = new FakePrograms('legacy');
  programs.refused = /-m (statistic|recent) /;
  const family = chains();
  await family.replace(programs, new Map([service(1), service(2)]));
  await family.update(
    programs,
    new Map([
      service(1, { clusterEndpoints: [endpoint(1), endpoint(2)] }),
      service(3, { affinitySeconds: 1 }),
    ]),
  );
  t.deepEqual(served(programs), ['s2']);
  t.regex(family.problems.get('default/s1') ?? '', /match "statistic" \(xt_statistic\)/);
  t.regex(family.problems.get('default/s3') ?? '', /match "recent"/);
  t.true(await family.isAsWanted(programs));
  t.false([...programs.kernel.saved().keys()].some((key) => key.endsWith('PROBE')));
});

test('a service with a rule that is refused for no known reason is found among many', async (t) => {
  const programs = new FakePrograms();
  programs.refused = /-d 10\.96\.0\.77\/32 /;
  const family = chains();
  const views = new Map(Array.from({ length: 200 }, (_, number) => service(number)));
  await family.replace(programs, views);
  t.is(served(programs).length, 199);
  t.deepEqual([...family.problems.keys()], ['default/s77']);
  t.regex(
    family.problems.get('default/s77') ?? '',
    /^left out, as iptables refuses its rules: .*line 7 failed/,
  );
  t.true(programs.inputs.length < 60, `${programs.inputs.length} inputs`);
});

test('where nothing can be written, or our own rules are refused, the error is told', async (t) => {
  for (const refused of [/./, /-m addrtype/]) {
    const programs = new FakePrograms();
    programs.refused = refused;
    await t.throwsAsync(chains().replace(programs, new Map([service(1)])), { message: /line 7 failed/ });
  }
});

test('updates do not wait for a look at everything, and are not taken for the doing of others', async (t) => {
  const programs = new FakePrograms();
  const family = chains();
  await family.replace(programs, new Map([service(1), service(2)]));
  const look = async (during: () => Promise<unknown>) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    programs.reading = promise;
    const answer = family.isAsWanted(programs);
    await during();
    resolve();
    return await answer;
  };
  t.true(await look(() => family.update(programs, new Map([service(3), ['default/s1', []]]))));
  t.deepEqual(served(programs).sort(), ['s2', 's3']);
  programs.kernel.restore('*nat\n-A KUBE-POSTROUTING -j RETURN\nCOMMIT\n');
  t.false(await look(() => family.update(programs, new Map([service(1)]))));
  // What is followed without reading is what changed.
  t.is(await family.follow(programs, new Map([service(1), service(2)])), 3);
  t.deepEqual(served(programs).sort(), ['s1', 's2']);
});

test('many chains are made in portions, before packets meet them, and go after', async (t) => {
  const programs = new FakePrograms();
  const family = chains();
  const many = new Map(Array.from({ length: 900 }, (_, number) => service(number)));
  await family.replace(programs, many);
  t.true(programs.inputs.length > 3);
  for (const input of programs.inputs) t.true(input.split('\n').length < 5_000);
  t.is(
    programs.inputs.findIndex((input) => /-[AI] PREROUTING /.test(input)),
    programs.inputs.length - 1,
  );
  t.is(served(programs).length, 900);
  t.true(await family.isAsWanted(programs));
  const chainsWritten = [...programs.kernel.saved().keys()].sort();
  await family.replace(programs, new Map());
  t.is(served(programs).length, 0);
  t.true(await family.isAsWanted(programs));
  const legacy = new FakePrograms('legacy');
  await chains().replace(legacy, many);
  t.is(legacy.inputs.length, 1);
  t.deepEqual([...legacy.kernel.saved().keys()].sort(), chainsWritten);
});
