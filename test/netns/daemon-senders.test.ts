import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { type Agent, inside, Nodes } from './daemon-nodes.ts';

/** A VXLAN packet (VNI 1) with an Ethernet frame of nothing for the MAC address, from a namespace. */
function sendFrame(namespace: string, host: string, mac: string): void {
  const script = `
    const socket = require('node:dgram').createSocket('udp4');
    socket.send(Buffer.from(process.argv[2], 'hex'), 8472, process.argv[1], () => socket.close());`;
  const hex = `0800000000000100${mac.replaceAll(':', '')}020000000001${'0800'.padEnd(80, '0')}`;
  inside(namespace, process.execPath, '-e', script, host, hex);
}

test.serial(
  'with TunnelSenders "any", packets of nodes behind NAT come in, and the next word closes the tunnel',
  async (t) => {
    const nodes = await Nodes.open(t, 1);
    const config = (senders: string) => {
      return JSON.stringify({ Network: '10.244.0.0/16', Backend: { Type: 'vxlan', TunnelSenders: senders } });
    };
    const start = async (senders: string): Promise<Agent> => {
      const agent = nodes.start(0, config(senders));
      await agent.ready();
      return agent;
    };
    const open = await start('any');
    const [link] = JSON.parse(open.run('ip', '-j', 'link', 'show', 'dev', 'fl.1')) as { address: string }[];
    const received = (agent: Agent) => {
      const shown = JSON.parse(agent.run('ip', '-s', '-j', 'link', 'show', 'dev', 'fl.1'));
      return (shown as { stats64: { rx: { packets: number } } }[])[0]?.stats64.rx.packets ?? Number.NaN;
    };
    const send = () => sendFrame(nodes.lab.outside.namespace, open.machine.addresses[0], link?.address ?? '');
    const before = received(open);
    send();
    await until('it comes in', () => received(open) === before + 1);
    await open.end('SIGTERM');
    const closed = await start('nodes');
    send();
    t.is(received(closed), before + 1);
  },
);
