import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { NSENTER } from './nftables-space.ts';
import { PORT, type ProxyLab, podAddresses } from './proxy-lab.ts';
import { met, place, TraceStage } from './trace-stage.ts';

/*
 * The command as users start it, beside a proxy on a node of the lab in proxy-lab.ts. What the kernel's trace says is
 * held against what the plan says, and both against who was to be reached.
 */
let stage: TraceStage;
let lab: ProxyLab;

test.before(async () => {
  stage = await TraceStage.open();
  ({ lab } = stage);
});

test.after.always(() => stage?.[Symbol.asyncDispose]());

const trace = (...args: string[]) => stage.trace(...args);
const verified: TraceStage['verified'] = (...args) => stage.verified(...args);
const inPod = (pod: string) => stage.inPod(pod);

const ours = async () =>
  (await lab.nft('list', 'tables')).split('\n').filter((line) => line.includes('trace'));

for (const [index, family] of ['IPv4', 'IPv6'].entries()) {
  const at = <T>(pair: readonly [T, T]): T => pair[index] as T;
  const nft = index === 0 ? 'ip' : 'ip6';
  const client = () => at(podAddresses('client'));

  test.serial(
    `${family}: a pod's packet to a cluster IP is followed to the endpoint, rule by rule`,
    async (t) => {
      const { ips } = await lab.serve('near', { number: 11, pods: ['one', 'two'] });
      const result = await verified(t, 0, client(), place(at(ips), 80), ...inPod('client'));
      const { verdict, endpoints, masquerade, source } = result.trace;
      t.deepEqual(
        endpoints.map(({ ip, percent, local }) => [ip, percent, local]),
        [
          [at(podAddresses('one')), 50, true],
          [at(podAddresses('two')), 50, true],
        ],
      );
      t.like(
        { verdict, source: source.class, wanted: masquerade?.wanted },
        {
          verdict: 'balanced',
          source: 'pod',
          wanted: false,
        },
      );
      const { agrees, endpoint, answer } = result.verification;
      t.like({ agrees, answer }, { agrees: true, answer: 'connected' });
      t.true(endpoints.some(({ ip, port }) => ip === endpoint?.ip && port === endpoint.port));
      const [first = '', second = ''] = met(result);
      t.regex(
        first,
        /^prerouting fairlead-proxy: services, to a service, by the kind, pods keep .*one of 2$/,
      );
      t.is(second, 'forward fairlead-proxy: new connections, it goes to an endpoint');
      t.regex(met(result).at(-1) ?? '', /^postrouting fairlead-proxy: the priority was ours/);
      t.deepEqual(await ours(), []);
    },
  );

  test.serial(`${family}: UDP, from the node itself, is masqueraded`, async (t) => {
    const { ips } = await lab.serve('far', { number: 12, pods: ['three'] });
    const result = await verified(t, 0, at(lab.node.addresses), `${place(at(ips), 80)}/udp`);
    t.like(result.trace, { verdict: 'balanced', source: { class: 'node' }, masquerade: { wanted: true } });
    t.like(result.verification, {
      agrees: true,
      answer: 'answered',
      endpoint: { ip: at(podAddresses('three')), port: PORT },
    });
    t.true(
      met(result).some((hop) => hop === 'postrouting fairlead-proxy: the priority was ours, masquerade'),
    );
    const named = await trace('node', place(at(ips), 80));
    t.true(named.out.startsWith(`${at(lab.node.addresses)} → `), named.error);
  });

  test.serial(`${family}: a pod that reaches itself is masqueraded, as the plan says`, async (t) => {
    const { ips } = await lab.serve('self', { number: 13, pods: ['one'] });
    const result = await verified(t, 0, at(podAddresses('one')), place(at(ips), 80), ...inPod('one'));
    t.like(result.trace.endpoints[0], { hairpin: true, masqueraded: true });
    t.like(result.verification, { agrees: true, answer: 'connected' });
  });

  test.serial(`${family}: without endpoints the trace ends at our refusal, of node ports too`, async (t) => {
    const { ips, nodePort } = await lab.serve('empty', { number: 14, nodePort: 30_014, pods: [] });
    for (const target of [place(at(ips), 80), place(at(lab.node.addresses), nodePort)]) {
      for (const protocol of ['tcp', 'udp']) {
        const result = await verified(t, 0, client(), `${target}/${protocol}`, ...inPod('client'));
        t.like(result.trace, { verdict: 'refused', reason: 'no endpoints' });
        t.like(result.verification, { agrees: true, answer: 'ECONNREFUSED' });
      }
    }
    const port = await verified(t, 0, client(), place(at(ips), 99), ...inPod('client'));
    t.like(port.trace, { verdict: 'refused' });
  });

  test.serial(`${family}: an address that no Service has is dropped, as the plan says`, async (t) => {
    const unallocated = await stage.announceNetwork(index === 0 ? 4 : 6);
    const result = await verified(t, 0, client(), place(unallocated, 80), ...inPod('client'));
    t.is(result.trace.verdict, 'dropped');
    t.like(result.verification, { agrees: true, answer: 'no answer' });
  });

  test.serial(
    `${family}: somebody else's rule that drops the packet is shown, and where to look`,
    async (t) => {
      const { ips } = await lab.serve('near', { number: 11, pods: ['one'] });
      const [table, chain] = [`guard${index}`, 'between'];
      const rule = `tcp dport ${PORT} counter drop comment "no web here"`;
      await lab.nft('add', 'table', nft, table);
      t.teardown(() => lab.nft('delete', 'table', nft, table));
      await lab.nft('add', 'chain', nft, table, chain, '{ type filter hook forward priority 10 ; }');
      await lab.nft('add', 'rule', nft, table, chain, ...rule.split(' '));
      const args = [client(), place(at(ips), 80), ...inPod('client')];
      const result = await verified(t, 1, ...args);
      const { agrees, findings, hops, endpoint, answer } = result.verification;
      t.like(
        { agrees, answer, endpoint },
        { agrees: false, answer: 'no answer', endpoint: { ip: at(podAddresses('one')) } },
      );
      t.like(hops.at(-1), { table, chain, hook: 'forward', priority: 10, verdict: 'drop', family: nft });
      t.regex(
        findings[0] ?? '',
        new RegExp(`dropped by somebody else: table ${nft} ${table}, chain between, rule \\d+ “no web here”`),
      );
      t.is(findings[1], `look at it with: nft -a list chain ${nft} ${table} between`);
      const { out } = await trace(...args, '--verify');
      t.regex(out, /guard\d between \(somebody else's\): drop/);
      t.regex(out, /the kernel did NOT do what the plan says\n +dropped by somebody else: /);
      t.false(out.includes('\x1b['), 'no colour into a pipe');
    },
  );

  test.serial(`${family}: a packet of somebody else's is waited for`, async (t) => {
    const { nodePort } = await lab.serve('far', { number: 12, nodePort: 30_012, pods: ['three'] });
    const outside = lab.from('outside');
    const target = place(at(lab.node.addresses), nodePort);
    const seen = verified(t, 0, at(lab.outside.addresses), target, '--wait', '60');
    for (let tries = 0; tries < 600 && (await ours()).length === 0; tries += 1) await sleep(50);
    t.true((await outside.get(`http://${target}/`)).ok);
    const result = await seen;
    t.like(result.trace, {
      source: { class: 'outside' },
      frontend: { kind: 'nodePort', service: 'default/far' },
    });
    t.like(result.verification, { agrees: true, endpoint: { ip: at(podAddresses('three')), port: PORT } });
    t.deepEqual(await ours(), []);
  });
}

async function waiting(t: ExecutionContext): Promise<ChildProcess> {
  const child = spawn(NSENTER, stage.command(['203.0.113.77', '10.96.0.11:80', '--verify', '--wait', '60']));
  t.teardown(() => child.kill('SIGKILL'));
  for (let tries = 0; tries < 600 && (await ours()).length === 0; tries += 1) await sleep(50);
  t.is((await ours()).length, 1);
  return child;
}

test.serial(
  'the table that has packets traced goes when the command is stopped, and when it is killed',
  async (t) => {
    for (const signal of ['SIGINT', 'SIGKILL'] as const) {
      const child = await waiting(t);
      const ended = new Promise<number | null>((resolve) => child.on('exit', resolve));
      child.kill(signal);
      t.is(await ended, signal === 'SIGINT' ? 1 : null);
      for (let tries = 0; tries < 600 && (await ours()).length > 0; tries += 1) await sleep(50);
      t.deepEqual(await ours(), []);
    }
  },
);

test.serial('what cannot be done is said with what to do next', async (t) => {
  const errors = async (...args: string[]) => {
    const { code, error } = await trace(...args);
    t.not(code, 0);
    return error;
  };
  const pod = podAddresses('client')[0];
  t.regex(await errors(pod, '10.96.0.11'), /is not an address and port such as 10\.96\.0\.10:80/);
  t.regex(await errors('here', '10.96.0.11:80'), /is not an address such as .*nor "node"/);
  t.regex(await errors(pod, '[fd00:10:96::11]:80'), /are not of one family/);
  t.regex(
    await errors(pod, '10.96.0.11:80', '--netns', '/x'),
    /--netns: is where to send from: it needs --verify/,
  );
  t.regex(
    await errors(pod, '10.96.0.11:80', '--run-dir', '/nowhere'),
    /nobody answers on .* in \/nowhere; start one with/,
  );
  const elsewhere = await errors('10.244.1.77', '10.96.0.11:80', '--verify', ...inPod('client'));
  t.regex(elsewhere, /10\.244\.1\.77 is no address of .*; see: nsenter --net=/);
  t.regex(
    await errors('203.0.113.77', '10.96.0.11:80', '--verify', '--wait', '1'),
    /no such packet came to this node in 1 s/,
  );
});
