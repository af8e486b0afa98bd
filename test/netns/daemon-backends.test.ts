import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { Nodes, type Pod } from './daemon-nodes.ts';

const networks = {
  'IPv4 alone': { Network: '10.244.0.0/16' },
  'IPv4 and IPv6': { Network: '10.244.0.0/16', EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
  'IPv6 alone': { EnableIPv4: false, EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
};
const config = (network: object, backend: object) => JSON.stringify({ ...network, Backend: backend });
const urlOf = (ip: string) => `http://${ip.includes(':') ? `[${ip}]` : ip}:8080/`;

/** A bridge that was made just now drops IPv6 packets until its own address has been checked for duplicates. */
async function answers(from: Pod, to: string): Promise<void> {
  await until(`${from.name} gets ${to}`, async () => (await from.workload.get(urlOf(to), 5_000)).ok);
}

const both = ['IPv4 and IPv6', 'IPv6 alone'] as const;
/** With the MTU of pods where IPv6 is in use. IPv4 alone: those that have no other test of it. */
const backends = [
  { backend: { Type: 'vxlan' }, mtuBytes: 1430, families: both },
  { backend: { Type: 'vxlan', DirectRouting: true }, mtuBytes: 1430, families: ['IPv4 and IPv6'] },
  { backend: { Type: 'host-gw' }, mtuBytes: 1500, families: both },
  { backend: { Type: 'udp' }, mtuBytes: 1452, families: both },
  { backend: { Type: 'udp' }, mtuBytes: 1472, families: ['IPv4 alone'] },
] as const;

for (const { backend, mtuBytes, families } of backends) {
  for (const of of families) {
    const name = `${backend.Type}${'DirectRouting' in backend ? ' with DirectRouting' : ''}`;
    test.serial(`pods on two nodes reach each other over ${name} with ${of}`, async (t) => {
      const nodes = await Nodes.open(t, 2);
      const [agent] = await nodes.startAll(2, config(networks[of], backend));
      if ('DirectRouting' in backend)
        t.regex(agent?.run('ip', 'route') ?? '', /10\.244.* via 172\.30.* dev eth0/);
      t.is(agent?.file('subnet.env').match(/FLANNEL_MTU=(\d+)/)?.[1], String(mtuBytes));
      const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        for (const [place, host] of to.ips.entries()) {
          await answers(from, host);
          const got = await from.workload.get(urlOf(host));
          t.deepEqual(got.ok && got.answer, { name: to.name, peer: from.ips[place] ?? '' });
          const datagram = await from.workload.datagram(host, 8080);
          t.true(datagram.ok, `UDP to ${host}`);
          const bulk = await from.workload.send(host, 8081, 3_000_000);
          t.true(bulk.ok, `3 MB to ${host} and back: ${JSON.stringify(bulk)}`);
        }
      }
      t.deepEqual((await agent?.status())?.problems, []);
    });
  }
}
