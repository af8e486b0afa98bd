import test from 'ava';
import { openIpvs } from '../../proxy/ipvs/backend.ts';
import { defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import { factOf, missingIpvs } from './proxy-ipvs-lab.ts';
import { CLUSTER_CIDRS, PORT, podAddresses } from './proxy-lab.ts';
import { met, place, TraceStage } from './trace-stage.ts';

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

for (const [index, family] of ['IPv4', 'IPv6'].entries()) {
  const at = <T>(pair: readonly [T, T]): T => pair[index] as T;
  const client = () => at(podAddresses('client'));

  fact(
    `${family}: a packet is followed through IPVS to the endpoint, and the masquerade is as planned`,
    async (t) => {
      const { lab } = stage;
      const near = await lab.serve('near', { number: 11, nodePort: 30_011, pods: ['one'] });
      const direct = await stage.verified(t, 0, client(), place(at(near.ips), 80), ...stage.inPod('client'));
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
      const onNode = await stage.verified(t, 0, client(), `${target}/udp`, ...stage.inPod('client'));
      t.like(onNode.trace, { verdict: 'balanced', masquerade: { wanted: true } });
      t.regex(onNode.verification.findings[0] ?? '', /, masqueraded$/);
    },
  );

  fact(`${family}: the node's own packet is masqueraded, from whichever address`, async (t) => {
    const { lab } = stage;
    const { ips } = await lab.serve('far', { number: 12, pods: ['three'] });
    const named = await stage.verified(t, 0, 'node', place(at(ips), 80));
    t.is(named.trace.packet.source, at(ips));
    for (const result of [named, await stage.verified(t, 0, at(lab.node.addresses), place(at(ips), 80))]) {
      t.like(result.trace, { verdict: 'balanced', source: { class: 'node' }, masquerade: { wanted: true } });
      t.like(result.verification, { agrees: true, answer: 'connected' });
    }
  });

  fact(`${family}: REJECT and DROP are told from each other, and from what is for nobody`, async (t) => {
    const { lab } = stage;
    const { ips, nodePort } = await lab.serve('empty', { number: 14, nodePort: 30_014, pods: [] });
    const refused = [place(at(ips), 80), place(at(ips), 99), place(at(lab.node.addresses), nodePort)];
    for (const target of refused) {
      for (const protocol of ['tcp', 'udp']) {
        const result = await stage.verified(
          t,
          0,
          client(),
          `${target}/${protocol}`,
          ...stage.inPod('client'),
        );
        t.is(result.trace.verdict, 'refused');
        t.like(result.verification, { agrees: true, answer: 'ECONNREFUSED' });
      }
    }
    const { trace } = JSON.parse((await stage.trace(client(), place(at(ips), 99), '-o', 'json')).out);
    t.regex(trace.reason, /is an address of default\/empty, which has no port 99\/tcp/);
  });
}
