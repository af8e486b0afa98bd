import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import type { Machine } from '../../cli/cluster/topology.ts';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { askStatus, type NodeStatus } from '../../cli/node-status.ts';
import type { DaemonStatus } from '../../daemon/status.ts';
import { until } from '../daemon/etcd-server.ts';
import { inside, Nodes } from './daemon-nodes.ts';

const FAIRLEAD = fileURLToPath(new URL('../../fairlead', import.meta.url));
const HEALTH_PORT = 10_401;

/** `flanneld` on a machine of the lab, with a runtime directory of its own. */
class Flanneld {
  readonly machine: Machine;
  readonly directory: string;
  readonly #child: ChildProcess;

  constructor(nodes: Nodes, n: number, program: string) {
    this.machine = nodes.machine(n);
    this.directory = `${nodes.lab.directory}/${this.machine.name}`;
    mkdirSync(this.directory, { recursive: true });
    const words = [
      `--etcd-endpoints=${nodes.etcd.endpoint}`,
      '-iface',
      this.machine.addresses[0],
      '-ip-masq',
    ];
    const files = [`--subnet-file=${this.directory}/subnet.env`, `-healthz-port=${HEALTH_PORT}`];
    const [command, args] = inNamespace(this.machine.namespace, [program, ...words, ...files]);
    const places = { FAIRLEAD_RUN_DIR: this.directory, FLANNELD_HEALTHZ_IP: '127.0.0.1' };
    // All machines of the lab have the host's name.
    const env = { ...process.env, ...places, NODE_NAME: this.machine.name };
    this.#child = spawn(command, args, { env, stdio: 'ignore' });
  }

  async status(): Promise<(NodeStatus & { daemon?: DaemonStatus }) | undefined> {
    return (await askStatus(`${this.directory}/node.sock`)) as NodeStatus & { daemon?: DaemonStatus };
  }

  async until(what: string, holds: (status: DaemonStatus) => boolean): Promise<void> {
    await until(
      `${this.machine.name}: ${what}`,
      async () => {
        const daemon = (await this.status())?.daemon;
        return daemon !== undefined && holds(daemon);
      },
      20_000,
    );
  }

  run(...command: string[]): string {
    return inside(this.machine.namespace, ...command);
  }

  /** "200 text" of a page of the health server. */
  page(path: string): string {
    const program = 'fetch(process.argv[1]).then(async (r) => console.log(r.status, await r.text()))';
    return this.run(process.execPath, '-e', program, `http://127.0.0.1:${HEALTH_PORT}${path}`).trimEnd();
  }

  file(name: string): string {
    return readFileSync(`${this.directory}/${name}`, 'utf8');
  }

  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return this.#child.exitCode;
    const gone = once(this.#child, 'exit');
    this.#child.kill(signal);
    const [code] = (await gone) as [number | null];
    return code;
  }
}

async function startBoth(t: ExecutionContext, nodes: Nodes): Promise<readonly [Flanneld, Flanneld]> {
  const program = `${nodes.lab.directory}/flanneld`;
  mkdirSync(nodes.lab.directory, { recursive: true });
  symlinkSync(FAIRLEAD, program);
  const start = (n: number) => {
    const flanneld = new Flanneld(nodes, n, program);
    t.teardown(() => flanneld.end('SIGKILL'));
    return flanneld;
  };
  const both = [start(0), start(1)] as const;
  await Promise.all(
    both.map((one) => one.until('knows the other', ({ ready, peers }) => ready && peers === 1)),
  );
  return both;
}

/** What flanneld and its plugins leave: a device, a route to a peer, and a bridge of pods. */
function leaveFlannelDevice({ namespace, addresses }: Machine): void {
  const ip = (words: string) => inside(namespace, 'ip', ...words.split(' '));
  const [, device = ''] = ip('-o -4 addr show scope global').split(/\s+/);
  ip(`link add flannel.1 type vxlan id 1 local ${addresses[0]} dev ${device} dstport 8472 nolearning`);
  ip('link set flannel.1 up');
  ip('route add 10.5.200.0/24 via 10.5.200.0 dev flannel.1 onlink');
  ip('link add cni0 type bridge');
  ip('link set cni0 up');
}

test('started as flanneld is, over etcd: subnet.env, packets between pods, health, and a changed network', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const config = { Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } };
  nodes.etcd.ctl('put', '/coreos.com/network/config', JSON.stringify(config));
  leaveFlannelDevice(nodes.machine(0));
  const [first, second] = await startBoth(t, nodes);
  t.notRegex(first.run('ip', 'link'), /flannel\.1/, 'the device that flanneld left');

  const keys = nodes.etcd.ctl('get', '--prefix', '--keys-only', '/coreos.com/network/subnets/').split(/\n+/);
  t.is(keys.length, 2);
  const [subnet = ''] = (await first.status())?.daemon?.subnets ?? [];
  t.true(keys.includes(`/coreos.com/network/subnets/${subnet.replace('/', '-')}`));
  const lines = [
    'FLANNEL_NETWORK=10.5.0.0/16',
    `FLANNEL_SUBNET=${subnet.replace('.0/24', '.1/24')}`,
    'FLANNEL_MTU=1450',
    'FLANNEL_IPMASQ=true',
  ];
  t.is(first.file('subnet.env'), `${lines.join('\n')}\n`);
  t.is(statSync(`${first.directory}/subnet.env`).mode & 0o777, 0o644);

  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const url = `http://${b.ips[0]}:8080/`;
  await until('the pods see each other', async () => (await a.workload.get(url, 1000)).ok);
  const got = await a.workload.get(url);
  t.is(got.ok && got.answer?.peer, a.ips[0], "with the pod's own address");

  t.is(first.page('/healthz'), '200 fairlead is running');
  t.regex(first.page('/readyz'), /^200 fairlead is ready/);
  t.regex(first.page('/metrics'), new RegExp(`fairlead_node_free_addresses\\{subnet="${subnet}"\\} 252`));
  first.run('ip', 'route', 'del', (await second.status())?.daemon?.subnets[0] ?? '');
  await first.until('the route is repaired', ({ repaired }) => repaired === 1);
  t.regex(first.page('/metrics'), /fairlead_node_rows_repaired_total 1\n/);

  const changed = { ...config, Backend: { Type: 'host-gw' } };
  nodes.etcd.ctl('put', '/coreos.com/network/config', JSON.stringify(changed));
  for (const one of [first, second]) {
    await one.until(
      'follows',
      ({ backend, peers, inLine }) => backend === 'host-gw' && peers === 1 && inLine,
    );
  }
  await until('the pods see each other again', async () => (await a.workload.get(url, 1000)).ok);
  t.true(first.file('subnet.env').includes('FLANNEL_MTU=1500'));

  t.is(await first.end('SIGTERM'), 0);
  t.true((await a.workload.get(url, 1000)).ok, 'the data plane stays');
});
