import type { Family, Ip } from '../../core/address.ts';
import { frontendAddress, type TestService, viewsOf } from './proxy-backend-lab.ts';
import { openIpvsStage } from './proxy-ipvs-lab.ts';
import { podAddresses } from './proxy-lab.ts';

/*
 * The cases of kube-proxy's own tests of its mode ipvs (pkg/proxy/ipvs) that are not packets, on the kernel's lists:
 * `npm run test:vm -- test/netns/proxy-ipvs-services.test.ts`. Those that are packets: proxy-conformance.ts.
 */

const stage = await openIpvsStage();
const { fact } = stage;
const pods = ['one', 'two', 'three'] as const;
const web: TestService = { number: 1, pods };

function shown(ip: Ip, port: number): string {
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
}

function podShown(pod: (typeof pods)[number], family: Family, weight = 1): string {
  return `${shown(podAddresses(pod)[family === 4 ? 0 : 1], 8080)} ${weight}`;
}

/** Cluster IP, external IP and load balancer's of a service, and these node ports. */
function frontendsShown(number: number, nodeIps: readonly Ip[]): string[] {
  const kinds = ['clusterIP', 'externalIP', 'loadBalancerIP'] as const;
  return ([4, 6] as const).flatMap((family) => [
    ...kinds.map((kind) => shown(frontendAddress(family, kind, number), 80)),
    ...nodeIps.filter((ip) => ip.includes(':') === (family === 6)).map((ip) => shown(ip, 30_000 + number)),
  ]);
}

function nodeIps(): Ip[] {
  return [...stage.lab.lab.node.addresses];
}

function clusterServer(protocol: string, more = ''): string {
  return `${protocol} ${shown(frontendAddress(4, 'clusterIP', 1), 80)} rr${more}`;
}

function held(): string {
  return stage.inside('/usr/sbin/ip', '-brief', 'address', 'show', 'dev', 'kube-ipvs0');
}

fact('SCTP services are servers at every frontend and on every address of the node', async (t) => {
  const backend = await stage.open(t);
  const { lab } = stage;
  const ips = [...nodeIps(), lab.bridgeAddress(4), lab.bridgeAddress(6)];
  const of = (family: 4 | 6) => ips.filter((ip) => ip.includes(':') === (family === 6));
  await backend.updateNode(lab.facts({ nodePortIps: { 4: of(4), 6: of(6) } }));
  await lab.write(backend, [{ ...web, protocols: ['sctp'] }]);
  const servers = stage.servers();
  t.deepEqual(
    [...servers.keys()].toSorted(),
    frontendsShown(1, ips)
      .map((at) => `SCTP ${at} rr`)
      .toSorted(),
  );
  for (const [server, its] of servers) {
    const family = server.includes('[') ? 6 : 4;
    t.deepEqual(its, pods.map((pod) => podShown(pod, family)).toSorted(), server);
  }
});

fact('under the external policy "Local" only cluster IPs have SCTP endpoints elsewhere', async (t) => {
  const service: TestService = { ...web, protocols: ['sctp'], view: { externalPolicy: 'Local' } };
  await stage.lab.write(await stage.open(t), [service]);
  for (const [server, its] of stage.servers()) {
    const family = server.includes('[') ? 6 : 4;
    const expected = server.includes(frontendAddress(family, 'clusterIP', 1))
      ? pods
      : (['one', 'two'] as const);
    t.deepEqual(its, expected.map((pod) => podShown(pod, family)).toSorted(), server);
  }
});

fact('of one port with several protocols each has its server, also where one has no endpoints', async (t) => {
  const protocols = ['tcp', 'udp', 'sctp'] as const;
  const views = viewsOf([{ ...web, protocols }]);
  const ports = (views.get('default/s1') ?? []).map((port) =>
    port.protocol === 'udp'
      ? { ...port, clusterEndpoints: [], localEndpoints: [], hasAnyEndpoints: false }
      : port,
  );
  const backend = await stage.open(t);
  t.deepEqual((await backend.replace(new Map([['default/s1', ports]]))).failures, []);
  const servers = stage.servers();
  for (const protocol of ['TCP', 'SCTP']) t.is(servers.get(clusterServer(protocol))?.length, 3, protocol);
  t.false([...servers.keys()].some((server) => server.startsWith('UDP')));
  t.is(await stage.lab.seenByDatagrams('client', stage.lab.target(4, 'clusterIP', 1)), 'refused');
});

fact(
  'affinity is persistence, which servers that are there get, change and lose with nothing else',
  async (t) => {
    const backend = await stage.open(t);
    await stage.lab.write(backend, [web]);
    const count = stage.servers().size;
    for (const [affinitySeconds, more] of [
      [10_800, ' persistent 10800'],
      [60, ' persistent 60'],
      [undefined, ''],
    ] as const) {
      const view = affinitySeconds === undefined ? {} : { affinitySeconds };
      const result = await backend.update(viewsOf([{ ...web, view }]));
      t.deepEqual(result, { writes: count, failures: [] }, more);
      const servers = stage.servers();
      t.is(servers.size, count);
      t.true([...servers.keys()].every((server) => server.endsWith(` rr${more}`)));
      t.true([...servers.values()].every((its) => its.length === pods.length));
    }
  },
);

fact('an address stays as long as one port of it is left', async (t) => {
  const backend = await stage.open(t);
  await stage.lab.write(backend, [{ ...web, protocols: ['tcp', 'udp'] }]);
  await stage.lab.update(backend, [{ ...web, protocols: ['tcp'] }]);
  t.false([...stage.servers().keys()].some((server) => server.startsWith('UDP')));
  t.regex(held(), /10\.96\.0\.1\/32/);
  t.regex(held(), /fd00:10:96::1\/128/);
  await backend.update(new Map([['default/s1', []]]));
  await stage.until(() => stage.servers().size === 0);
  t.notRegex(held(), /10\.9\d\.0\.1\/|fd00:10:9\d::1\//);
});

fact('a weight of nought that an earlier process left is one again after a restart', async (t) => {
  await stage.lab.write(await stage.open(t), [web]);
  const at = ['-t', '10.96.0.1:80', '-r', '10.244.1.11:8080'];
  stage.inside('/usr/sbin/ipvsadm', '-e', ...at, '-m', '-w', '0');
  t.true(
    stage
      .servers()
      .get(clusterServer('TCP'))
      ?.includes(podShown('one', 4, 0)),
  );
  const again = await stage.open(t);
  t.deepEqual(await again.replace(viewsOf([web])), { writes: 1, failures: [] });
  t.true(
    stage
      .servers()
      .get(clusterServer('TCP'))
      ?.includes(podShown('one', 4, 1)),
  );
});

fact('an endpoint that goes without connections goes at once, of UDP always', async (t) => {
  const backend = await stage.open(t);
  await stage.lab.write(backend, [web]);
  t.is(await stage.lab.seenByDatagrams('client', stage.lab.target(4, 'clusterIP', 1), pods), 'one+three+two');
  await stage.lab.update(backend, [{ ...web, pods: ['one', 'two'] }]);
  const left = (['one', 'two'] as const).map((pod) => podShown(pod, 4)).toSorted();
  t.deepEqual(stage.servers().get(clusterServer('UDP')), left);
  await stage.until(() => stage.servers().get(clusterServer('TCP'))?.join() === left.join());
});

fact(
  'one with closed connections that are remembered stays without new ones, and no longer than the bound',
  async (t) => {
    const backend = await stage.open(t, { drainMs: 5_000 });
    await stage.lab.write(backend, [web]);
    t.is(await stage.lab.seen('client', stage.lab.target(4, 'clusterIP', 1), pods), 'one+three+two');
    await stage.lab.update(backend, [{ ...web, pods: ['one', 'two'] }]);
    t.true(
      stage
        .servers()
        .get(clusterServer('TCP'))
        ?.includes(podShown('three', 4, 0)),
    );
    t.is(await stage.lab.seen('client', stage.lab.target(4, 'clusterIP', 1), ['one', 'two']), 'one+two');
    await stage.until(() => stage.servers().get(clusterServer('TCP'))?.length === 2);
  },
);

fact('one that comes back while it drains is as before', async (t) => {
  const backend = await stage.open(t);
  await stage.lab.write(backend, [web]);
  await stage.lab.seen('client', stage.lab.target(4, 'clusterIP', 1), pods);
  await stage.lab.update(backend, [{ ...web, pods: ['one', 'two'] }]);
  await stage.lab.update(backend, [web]);
  const its = stage.servers().get(clusterServer('TCP'));
  t.deepEqual(its, pods.map((pod) => podShown(pod, 4)).toSorted());
  t.is(await stage.lab.seen('client', stage.lab.target(4, 'clusterIP', 1), pods), 'one+three+two');
});

fact('node ports on all addresses are on none of loopback or of one link only', async (t) => {
  const backend = await stage.open(t);
  await backend.updateNode(stage.lab.facts({ nodePortIps: { 4: 'all', 6: 'all' } }));
  await stage.lab.write(backend, [web]);
  const servers = [...stage.servers().keys()].filter((server) => server.includes(':30001 '));
  const ips = [...nodeIps(), stage.lab.bridgeAddress(4), stage.lab.bridgeAddress(6)];
  t.deepEqual(
    servers.toSorted(),
    ['TCP', 'UDP'].flatMap((protocol) => ips.map((ip) => `${protocol} ${shown(ip, 30_001)} rr`)).toSorted(),
  );
});

fact('what is masqueraded gets a random port', async (t) => {
  await stage.lab.write(await stage.open(t), [web]);
  for (const family of ['ip', 'ip6'])
    t.regex(
      stage.inside('/usr/sbin/nft', 'list', 'table', family, 'fairlead-ipvs'),
      /masquerade fully-random/,
    );
});

fact('host ports of the same number take no connections to services', async (t) => {
  const wrong = podAddresses('two')[0];
  for (const [priority, port] of [
    [-100, 80],
    [-101, 30_001],
  ]) {
    const hostPort = `fib daddr type local tcp dport ${port} dnat to ${wrong}:8080`;
    const chains = ['prerouting', 'output'].map(
      (hook) => `chain ${hook} { type nat hook ${hook} priority ${priority}; ${hostPort}; }`,
    );
    stage.inside('/usr/sbin/nft', `table ip hostports-${port} { ${chains.join('; ')}; }`);
    t.teardown(() => stage.inside('/usr/sbin/nft', 'delete', 'table', 'ip', `hostports-${port}`));
  }
  const backend = await stage.open(t);
  await stage.lab.write(backend, [{ ...web, pods: ['one'] }]);
  t.is(await stage.lab.seen('client', stage.lab.target(4, 'clusterIP', 1), ['one']), 'one');
  t.is(await stage.lab.seen('node', stage.lab.target(4, 'clusterIP', 1), ['one']), 'one M');
  for (const kind of ['loadBalancerIP', 'nodePort'] as const)
    t.is(await stage.lab.seen('outside', stage.lab.target(4, kind, 1), ['one']), 'one M', kind);
  await stage.lab.update(backend, [{ number: 1, pods: [] }]);
  t.is(await stage.lab.seen('client', stage.lab.target(4, 'clusterIP', 1)), 'refused');
  // What is no service's is theirs.
  t.regex(await stage.lab.seen('client', { ip: stage.lab.nodeAddress(4), port: 80 }, ['two']), /^two/);
});
