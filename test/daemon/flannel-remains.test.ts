import test from 'ava';
import { isFlannelTwin } from '../../daemon/flannel-remains.ts';
import type { LinkRow } from '../../kernel/link.ts';
import { planOf } from './golden.ts';

const linkOf = (backend: object): LinkRow => {
  const [link] = planOf(JSON.stringify({ Network: '10.244.0.0/16', Backend: backend }), [
    { n: 1 },
  ]).links.values();
  if (link === undefined) throw new Error('no link');
  return link;
};

test('of flanneld’s devices only those are in the way that have the place of ours', (t) => {
  const devices = [
    { name: 'flannel.1', kind: 'vxlan', vxlan: { vni: 1, port: 8472 } },
    { name: 'flannel-v6.1', kind: 'vxlan', vxlan: { vni: 1, port: 8472 } },
    { name: 'flannel.2', kind: 'vxlan', vxlan: { vni: 2, port: 8472 } },
    { name: 'flannel.7', kind: 'vxlan', vxlan: { vni: 7, port: 4789 } },
    { name: 'vxlan.calico', kind: 'vxlan', vxlan: { vni: 1, port: 8472 } },
    { name: 'flannel-wg', kind: 'wireguard' },
    { name: 'flannel-wg-v6', kind: 'wireguard' },
    { name: 'wg0', kind: 'wireguard' },
    { name: 'flannel.ipip', kind: 'ipip' },
    { name: 'tunl0', kind: 'ipip' },
    { name: 'flannel0', kind: 'tun' },
    { name: 'tun0', kind: 'tun' },
    { name: 'flannel.1', kind: 'dummy' },
  ];
  const inTheWay = (backend: object) =>
    devices.filter((device) => isFlannelTwin(linkOf(backend), device)).map(({ name }) => name);
  t.deepEqual(inTheWay({ Type: 'vxlan' }), ['flannel.1', 'flannel-v6.1']);
  t.deepEqual(inTheWay({ Type: 'vxlan', VNI: 2 }), ['flannel.2']);
  t.deepEqual(inTheWay({ Type: 'vxlan', VNI: 7 }), [], 'another port: there is room for both');
  t.deepEqual(inTheWay({ Type: 'ipip' }), ['flannel.ipip']);
  t.deepEqual(inTheWay({ Type: 'udp' }), ['flannel0']);
  t.deepEqual(inTheWay({ Type: 'wireguard' }), ['flannel-wg']);
});
