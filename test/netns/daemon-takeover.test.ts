import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { inside, Nodes } from './daemon-nodes.ts';

// A node that flanneld was on; the other nodes are entries in etcd.

const prefix = '/coreos.com/network/subnets/';
const config = (backend: object) => JSON.stringify({ Network: '10.244.0.0/16', Backend: backend });

function put(nodes: Nodes, subnet: string, publicIp: string, type: string): void {
  const value = { PublicIP: publicIp, PublicIPv6: null, BackendType: type };
  nodes.etcd.ctl('put', prefix + subnet, JSON.stringify(value));
}

test.serial(
  'host-gw takes flanneld’s routes over, and a row that the kernel refuses does not keep the node from being ready',
  async (t) => {
    const nodes = await Nodes.open(t, 1);
    const { namespace } = nodes.machine(0);
    const ip = (words: string) => inside(namespace, 'ip', ...words.split(' '));
    put(nodes, '10.244.200.0-24', '172.30.0.200', 'host-gw');
    put(nodes, '10.244.201.0-24', '172.30.0.201', 'host-gw');
    put(nodes, '10.244.202.0-24', '172.30.0.202', 'host-gw');
    put(nodes, '10.244.204.0-24', '172.30.0.255', 'host-gw'); // the network's broadcast address
    put(nodes, '10.244.205.0-24', '172.30.0.205', 'host-gw');
    ip('route add 10.244.200.0/24 via 172.30.0.200 dev eth0');
    ip('route add 10.244.201.0/24 via 172.30.0.99 dev eth0');
    ip('route add 10.244.202.0/24 via 172.30.0.1 dev eth0 proto static');
    const agent = nodes.start(0, config({ Type: 'host-gw' }));
    const { problems, inLine, writes } = await agent.ready();
    t.true(inLine);
    const routes = () => agent.run('ip', 'route', 'show', 'root', '10.244.200.0/21').trimEnd().split('\n');
    t.deepEqual(
      routes().map((line) => line.trim()),
      [
        '10.244.200.0/24 via 172.30.0.200 dev eth0 proto 88',
        '10.244.201.0/24 via 172.30.0.201 dev eth0 proto 88',
        '10.244.202.0/24 via 172.30.0.1 dev eth0 proto static',
        '10.244.205.0/24 via 172.30.0.205 dev eth0 proto 88',
      ],
    );
    const told = (pattern: RegExp) =>
      t.true(
        problems.some((text) => pattern.test(text)),
        problems.join('\n'),
      );
    told(/^10\.244\.202\.0-24: route 254 10\.244\.202\.0\/24: .*EEXIST/);
    told(/^10\.244\.204\.0-24: route 254 10\.244\.204\.0\/24: .*EINVAL/);

    put(nodes, '10.244.206.0-24', '172.30.0.206', 'host-gw');
    const joined = await agent.until('one more', (status) => status.writes > writes);
    t.is(joined.writes - writes, 1, 'the refused rows are no news');
    await until('its route', () => routes().some((line) => line.startsWith('10.244.206.0/24')));
  },
);

test.serial('vxlan takes the place of flanneld’s device, and leaves those of other networks', async (t) => {
  const nodes = await Nodes.open(t, 1);
  const { namespace } = nodes.machine(0);
  const ip = (words: string) => inside(namespace, 'ip', ...words.split(' '));
  for (const vni of [1, 2]) {
    ip(`link add flannel.${vni} type vxlan id ${vni} local 172.30.0.11 dev eth0 dstport 8472 nolearning`);
    ip(`link set flannel.${vni} up`);
    ip(`route add 10.244.20${vni}.0/24 via 10.244.20${vni}.0 dev flannel.${vni} onlink`);
  }
  const data = { VNI: 1, VtepMAC: '02:00:00:00:02:01' };
  const value = { PublicIP: '172.30.0.201', BackendType: 'vxlan', BackendData: data };
  nodes.etcd.ctl('put', `${prefix}10.244.201.0-24`, JSON.stringify(value));
  const agent = nodes.start(0, config({ Type: 'vxlan' }));
  await agent.ready();
  const links = agent.run('ip', '-o', 'link', 'show', 'type', 'vxlan');
  t.false(links.includes('flannel.1'));
  t.true(links.includes('flannel.2'));
  t.true(links.includes('fl.1'));
  const routes = agent.run('ip', 'route');
  t.true(routes.includes('10.244.201.0/24 via 10.244.201.0 dev fl.1'));
  t.true(routes.includes('10.244.202.0/24 via 10.244.202.0 dev flannel.2'));
});
