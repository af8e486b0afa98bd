import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { Nodes, type Pod } from './daemon-nodes.ts';

const networks = {
  'IPv4 and IPv6': { Network: '10.244.0.0/16', EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
  'IPv6 alone': { EnableIPv4: false, EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
};
const config = (network: object, backend: object) => JSON.stringify({ ...network, Backend: backend });
const urlOf = (ip: string) => `http://${ip.includes(':') ? `[${ip}]` : ip}:8080/`;

/** A bridge that was made just now drops IPv6 packets until its own address has been checked for duplicates. */
async function answers(from: Pod, to: string): Promise<void> {
  await until(`${from.name} gets ${to}`, async () => (await from.workload.get(urlOf(to), 5_000)).ok);
}

for (const [families, network] of Object.entries(networks)) {
  for (const [backend, mtuBytes] of [
    ['vxlan', 1430],
    ['host-gw', 1500],
    ['udp', 1452],
  ] as const) {
    test.serial(`pods on two nodes reach each other over ${backend} with ${families}`, async (t) => {
      const nodes = await Nodes.open(t, 2);
      const [agent] = await nodes.startAll(2, config(network, { Type: backend }));
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
