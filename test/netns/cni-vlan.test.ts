import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { ExecutionContext } from 'ava';
import { CniNode, eventually, execIn, testConfig } from '../cni/node.ts';
import { factOf, missingBridgeVlans } from './missing.ts';

//  pod a, pod b ── VLAN 5 ─┐
//                          cni0 ── VLAN 5 ── cni0.5 (10.55.5.1/24) on the node
//  another pod ─── VLAN 6 ─┘

const server = `require('node:net').createServer((s) => s.end(s.remoteAddress.replace('::ffff:', '')))
  .listen(80, '::', () => console.log('listening'))`;
const subnet = '10.55.5.0/24';

async function listen(t: ExecutionContext, namespace: string): Promise<void> {
  const child: ChildProcess = spawn('nsenter', [`--net=${namespace}`, process.execPath, '-e', server], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout as NodeJS.ReadableStream, 'data');
}

/** An answer that must come is waited for longer than one that must not. */
const PATIENCE_S = 30;
const SILENCE_S = 5;

/** What the server at `ip` saw as the address of a client in the namespace. */
async function connect(namespace: string, ip: string, limitS = PATIENCE_S): Promise<string> {
  const script = `exec 3<>/dev/tcp/${ip}/80 && timeout 20 cat <&3`;
  return (await execIn(namespace, 'timeout', `${limitS}`, 'bash', '-c', script)).trim();
}

const fact = factOf(missingBridgeVlans());

function inVlan(vlan: number, range: object, options: object = {}): object {
  const ipam = { type: 'host-local', ranges: [[{ subnet, ...range }]] };
  return testConfig({ type: 'bridge', name: `vlan${vlan}`, vlan, ipam, ...options });
}

fact(
  'pods in a VLAN reach each other and their gateway on the node; one in another VLAN does not',
  async (t) => {
    const node = CniNode.open(t);
    await node.start();
    const attach = async (config: object) => {
      const pod = node.pod();
      const { exitCode, stdout } = await node.call('ADD', { ...pod, config });
      return exitCode === 0 ? { ...pod, ip: JSON.parse(stdout).ips[0].address.split('/')[0] } : stdout;
    };
    const five = inVlan(5, { rangeEnd: '10.55.5.99' }, { isGateway: true });
    const [a, b] = [await attach(five), await attach(five)];
    const other = await attach(inVlan(6, { rangeStart: '10.55.5.100' }));
    if (typeof a === 'string' || typeof b === 'string' || typeof other === 'string') {
      return t.fail(`${a} ${b} ${other}`);
    }
    await listen(t, b.netns);
    t.is(await connect(a.netns, b.ip), a.ip);
    t.is(await connect(node.namespace, b.ip), '10.55.5.1');
    await t.throwsAsync(connect(other.netns, b.ip, SILENCE_S));
    t.is((await node.exec('sysctl', '-n', 'net/ipv6/conf/cni0.5/accept_ra')).trim(), '0');
    // One of the ports has no VLAN 5.
    for (const pair of await node.pairs()) {
      await node.exec('bridge', 'vlan', 'del', 'vid', '5', 'dev', pair).catch(() => '');
    }
    t.true(
      await eventually(() =>
        connect(a.netns, b.ip)
          .then((ip) => ip === a.ip)
          .catch(() => false),
      ),
    );
  },
);
