import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { Nodes } from './daemon-nodes.ts';
import { OUTSIDE_ADDRESSES } from './lab.ts';

// What iptables, of either kind, has against packets of pods: an accepting rule of nftables does not overrule it.

const config = JSON.stringify({
  ...{ Network: '10.244.0.0/16', EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
  Backend: { Type: 'host-gw' },
});
const urlOf = (ip: string) => `http://${ip.includes(':') ? `[${ip}]` : ip}:8080/`;
const ours = /FAIRLEAD-CLUSTER/;

for (const kind of ['nft', 'legacy']) {
  test.serial(
    `pods’ packets pass a FORWARD of iptables-${kind} that drops, and its rules are kept`,
    async (t) => {
      const nodes = await Nodes.open(t, 1);
      const programs = [`iptables-${kind}`, `ip6tables-${kind}`];
      const agent = nodes.start(0, config);
      await agent.ready();
      const shown = () => programs.map((program) => agent.run(program, '-S'));
      const pod = await nodes.pod(0, 'a');
      await nodes.lab.workload(nodes.lab.outside.namespace, 'outside').serve('outside', 8080);
      const reach = async (what: string) => {
        for (const ip of OUTSIDE_ADDRESSES)
          await until(`${what}: ${ip} answers`, async () => (await pod.workload.get(urlOf(ip), 1_000)).ok);
      };
      await reach('before');
      for (const text of shown()) t.notRegex(text, ours, 'nobody drops');

      for (const program of programs) agent.run(program, '-P', 'FORWARD', 'DROP');
      await reach('a FORWARD that drops');
      await until('rules of both families', () => shown().every((text) => ours.test(text)));
      const whole = shown();
      for (const text of whole) t.is(text.match(/FORWARD .*-j FAIRLEAD-CLUSTER/g)?.length, 1);

      const breaks: Record<string, readonly string[]> = {
        'the jump removed': [
          '-D',
          'FORWARD',
          '-m',
          'comment',
          '--comment',
          'fairlead cluster',
          '-j',
          'FAIRLEAD-CLUSTER',
        ],
        'the chain emptied': ['-F', 'FAIRLEAD-CLUSTER'],
        'a rule removed': ['-D', 'FAIRLEAD-CLUSTER', '1'],
      };
      for (const [what, words] of Object.entries(breaks)) {
        const begin = performance.now();
        for (const program of programs) agent.run(program, ...words);
        await until(`${what}: repaired`, () => shown().join() === whole.join());
        t.log(`${what}: ${Math.round(performance.now() - begin)} ms`);
      }
      await reach('after repairs');

      for (const program of programs) agent.run(program, '-P', 'FORWARD', 'ACCEPT');
      await until('nothing of ours is left', () => shown().every((text) => !ours.test(text)));
      t.deepEqual((await agent.status()).problems, []);
    },
  );
}
