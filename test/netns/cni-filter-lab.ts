import { execFileSync } from 'node:child_process';
import type { ExecutionContext } from 'ava';
import type { Lab } from '../../cli/cluster/lab.ts';
import type { Machine } from '../../cli/cluster/topology.ts';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { bridgeLayout } from '../../cni/nft-bridge-layout.ts';
import { cniLayout } from '../../cni/nft-layout.ts';
import { type HostCidr, hostCidr, type Ip } from '../../core/address.ts';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import { openConntrackSocket } from '../../kernel/conntrack.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { NftTable, openNftSocket } from '../../kernel/nftables.ts';
import { openLab } from './lab.ts';

/*
 *   outside ── wire ── node: cni0 10.244.1.1/24, fd00:10:244:1::1/64 ─┬─ port of pod 5
 *                                                                     └─ port of pod 6 …
 *
 * Only the rules come from Fairlead; bridge and pods are made by ip, as another plugin of the chain would.
 */
export interface FilterPod {
  readonly name: string;
  readonly namespace: string;
  /** The end on the bridge. */
  readonly port: string;
  readonly addresses: readonly [HostCidr, HostCidr];
  readonly ips: readonly [Ip, Ip];
  readonly workload: Workload;
}

export interface FilterLab {
  readonly lab: Lab;
  readonly node: Machine;
  readonly nodeFd: number;
  readonly conntrack: NetlinkSocket;
  readonly bridge: string;
  /** With HTTP and UDP on 80, TCP echo on 81. */
  addPod(host: number): Promise<FilterPod>;
  /** A client on a machine. */
  client(machine: 'outside' | 'node'): Workload;
  /** Makes the tables hold these elements and no others. */
  filter(rows: { elements?: readonly NftElement[]; bridgeElements?: readonly NftElement[] }): Promise<void>;
  /** Runs a program of the host in a namespace. */
  run(namespace: string, command: string): string;
}

export async function openFilterLab(t: ExecutionContext): Promise<FilterLab> {
  const lab = await openLab(t, 1);
  const [node] = lab.nodes;
  if (node === undefined) throw new Error('no node');
  const run = (namespace: string, command: string) =>
    execFileSync('/usr/bin/nsenter', [`--net=/run/netns/${namespace}`, ...command.split(' ')], {
      encoding: 'utf8',
      stdio: 'pipe',
    });
  const ip = (namespace: string, lines: string) => {
    for (const line of lines.trim().split('\n')) run(namespace, `/usr/sbin/ip ${line.trim()}`);
  };
  ip(
    node.namespace,
    `link add cni0 type bridge
     addr add 10.244.1.1/24 dev cni0
     addr add fd00:10:244:1::1/64 dev cni0 nodad
     link set cni0 up`,
  );
  for (const setting of ['ipv4.ip_forward', 'ipv6.conf.all.forwarding', 'ipv4.conf.cni0.route_localnet']) {
    run(node.namespace, `/usr/sbin/sysctl -qw net.${setting}=1`);
  }
  const namespace = openNamespace(`/run/netns/${node.namespace}`);
  t.teardown(() => namespace[Symbol.dispose]());
  const socket = openNftSocket({ namespaceFd: namespace.fd });
  t.teardown(() => socket[Symbol.dispose]());
  const conntrack = openConntrackSocket({ namespaceFd: namespace.fd });
  t.teardown(() => conntrack[Symbol.dispose]());
  const table = new NftTable({ socket, layout: cniLayout });
  const bridgeTable = new NftTable({ socket, layout: bridgeLayout });
  const clients = new Map<string, Workload>();
  return {
    lab,
    node,
    nodeFd: namespace.fd,
    conntrack,
    bridge: 'cni0',
    run,
    async addPod(host) {
      const name = `pod${host}`;
      const pod = await lab.podNamespace(`${host}`);
      const [v4, v6] = [`10.244.1.${host}`, `fd00:10:244:1::${host}`] as [Ip, Ip];
      const port = `port${host}`;
      ip(
        node.namespace,
        `link add ${port} master cni0 type veth peer name eth0 netns ${pod}
         link set ${port} up type bridge_slave hairpin on`,
      );
      ip(
        pod,
        `link set lo up
         link set eth0 up
         addr add ${v4}/24 dev eth0
         addr add ${v6}/64 dev eth0 nodad
         route add default via 10.244.1.1
         route add default via fd00:10:244:1::1`,
      );
      const workload = lab.workload(pod, name);
      await workload.serve(name, 80);
      const addresses = [hostCidr(v4, 24), hostCidr(v6, 64)] as const;
      return { name, namespace: pod, port, addresses, ips: [v4, v6], workload };
    },
    client(machine) {
      const client = clients.get(machine) ?? lab.workload(machineOf(lab, node, machine).namespace, machine);
      clients.set(machine, client);
      return client;
    },
    async filter({ elements = [], bridgeElements = [] }) {
      const { failures } = await reconcile([
        layer(table, byKey(elements)),
        layer(bridgeTable, byKey(bridgeElements)),
      ]);
      t.deepEqual(
        failures.map(({ key, error }) => `${key}: ${error.message}`),
        [],
      );
    },
  };
}

function machineOf(lab: Lab, node: Machine, name: 'outside' | 'node'): Machine {
  return name === 'node' ? node : lab.outside;
}

function byKey(elements: readonly NftElement[]): Map<string, NftElement> {
  return new Map(elements.map((element) => [nftElementKey(element), element]));
}
