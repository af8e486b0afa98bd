import test, { type ExecutionContext } from 'ava';
import { openIpvs } from '../../proxy/ipvs/backend.ts';
import { defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import { factOf } from './missing.ts';
import { missingIpvs } from './missing-ipvs.ts';
import { CLUSTER_CIDRS, PORT, podAddresses } from './proxy-lab.ts';
import { met, place, type Result, TraceStage } from './trace-stage.ts';

/* Where there is IPVS: `npm run test:vm -- test/netns/trace-ipvs.test.ts`. */

const policy: ProxyPolicy = { ...defaultPolicy, detectLocal: { mode: 'cidrs', cidrs: CLUSTER_CIDRS } };
const missing = await missingIpvs();
const fact = factOf(missing);
let stage: TraceStage;

test.before(async () => {
  if (missing !== undefined) return;
  stage = await TraceStage.open(({ namespace }) => openIpvs({ namespaceFd: namespace.fd, policy }));
});

test.after.always(() => stage?.[Symbol.asyncDispose]());

/** In an emulated machine the command may not have the patience for a packet: it is sent again. */
async function follow(t: ExecutionContext, ...args: string[]): Promise<Result> {
  for (let tries = 1; ; tries += 1) {
    const { out, error } = await stage.trace(...args, '--verify', '-o', 'json');
    if (out !== '') return JSON.parse(out) as Result;
    t.log(error);
    if (tries === TRIES) throw new Error(error);
  }
}

const TRIES = 4;

for (const [index, family] of ['IPv4', 'IPv6'].entries()) {
  const at = <T>(pair: readonly [T, T]): T => pair[index] as T;
  const client = () => at(podAddresses('client'));

  fact(
    `${family}: a packet is followed through IPVS to the endpoint, and the masquerade is as planned`,
    async (t) => {
      const { lab } = stage;
      const near = await lab.serve('near', { number: 11, nodePort: 30_011, pods: ['one'] });
      const direct = await follow(t, client(), place(at(near.ips), 80), ...stage.inPod('client'));
      t.like(direct.trace, { verdict: 'balanced', source: { class: 'pod' }, masquerade: { wanted: false } });
      t.like(direct.verification, {
        agrees: true,
        answer: 'connected',
        endpoint: { ip: at(podAddresses('one')), port: PORT },
      });
      t.regex(direct.verification.findings[0] ?? '', /with its own source address$/);
      const hooks = met(direct).map((hop) => hop.split(' ')[0]);
      t.deepEqual([hooks[0], hooks.at(-1)], ['prerouting', 'postrouting']);

      const target = place(at(lab.node.addresses), near.nodePort);
      const onNode = await follow(t, client(), `${target}/udp`, ...stage.inPod('client'));
      t.like(onNode.trace, { verdict: 'balanced', masquerade: { wanted: true } });
      t.regex(onNode.verification.findings[0] ?? '', /, masqueraded$/);
    },
  );

  fact(`${family}: the node's own packet is masqueraded, from whichever address`, async (t) => {
    const { lab } = stage;
    const { ips } = await lab.serve('far', { number: 12, pods: ['three'] });
    const named = await follow(t, 'node', place(at(ips), 80));
    t.is(named.trace.packet.source, at(ips));
    for (const result of [named, await follow(t, at(lab.node.addresses), place(at(ips), 80))]) {
      t.like(result.trace, { verdict: 'balanced', source: { class: 'node' }, masquerade: { wanted: true } });
      t.true(result.verification.agrees);
    }
  });

  fact(`${family}: REJECT and DROP are told from each other, and from what is for nobody`, async (t) => {
    const { lab } = stage;
    const { ips, nodePort } = await lab.serve('empty', { number: 14, nodePort: 30_014, pods: [] });
    const targets = [
      place(at(ips), 80),
      `${place(at(ips), 99)}/udp`,
      place(at(lab.node.addresses), nodePort),
    ];
    for (const target of targets) {
      const result = await follow(t, client(), target, ...stage.inPod('client'));
      t.is(result.trace.verdict, 'refused');
      t.true(result.verification.agrees);
    }
    const unallocated = await stage.announceNetwork(index === 0 ? 4 : 6);
    const dropped = await follow(t, client(), place(unallocated, 80), ...stage.inPod('client'));
    t.is(dropped.trace.verdict, 'dropped');
    t.true(dropped.verification.agrees);
    const { trace } = JSON.parse((await stage.trace(client(), place(at(ips), 99), '-o', 'json')).out);
    t.regex(trace.reason, /is an address of default\/empty, which has no port 99\/tcp/);
  });
}
