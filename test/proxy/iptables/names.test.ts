import test from 'ava';
import { type Ip, parseIp } from '../../../core/address.ts';
import { endpointChain, isPortChain, portChains } from '../../../proxy/iptables/names.ts';

const ip = (text: string) => parseIp(text) as Ip;

test("chains have kube-proxy's names", (t) => {
  // As found on any cluster, and in pkg/proxy/iptables/proxier_test.go.
  const api = { name: 'default/kubernetes:https', protocol: 'tcp' } as const;
  t.is(portChains(api).cluster, 'KUBE-SVC-NPX46M4PTMTKRN6Y');
  const named = { name: 'ns1/svc1:p80', protocol: 'tcp' } as const;
  t.deepEqual(portChains(named), {
    cluster: 'KUBE-SVC-XPGD46QRK7WJZT7O',
    local: 'KUBE-SVL-XPGD46QRK7WJZT7O',
    external: 'KUBE-EXT-XPGD46QRK7WJZT7O',
    firewall: 'KUBE-FW-XPGD46QRK7WJZT7O',
  });
  t.is(endpointChain(named, { ip: ip('10.180.0.1'), port: 80 }), 'KUBE-SEP-SXIVWICOYRO3J4NJ');
});

test('a port without a name is named without a colon', (t) => {
  const [unnamed, bare] = ['default/web:', 'default/web'].map((name) =>
    portChains({ name, protocol: 'tcp' }),
  );
  t.deepEqual(unnamed, bare);
});

test('chains of service ports are known by their names, those of others are not', (t) => {
  t.true(isPortChain('KUBE-SEP-SXIVWICOYRO3J4NJ'));
  t.true(isPortChain(portChains({ name: 'a/b:c', protocol: 'udp' }).firewall));
  for (const name of [
    'KUBE-SERVICES',
    'KUBE-SVC-x',
    'KUBE-SEP-SXIVWICOYRO3J4NJ2',
    'CALI-KUBE-SEP-SXIVWICOYRO3J4NJ',
  ]) {
    t.false(isPortChain(name), name);
  }
});
