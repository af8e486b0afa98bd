import type { Ip } from '../../core/address.ts';
import { InputError } from '../../core/errors.ts';

/**
 * A cluster on one machine. Every box is a network namespace; the wire is a bridge in one of its own:
 *
 *     control        node-1         node-2         outside ── 203.0.113.10 / 2001:db8:113::10 (loopback)
 *        │ eth0         │ eth0         │ eth0         │ eth0
 *        └──────────────┴──── wire ────┴──────────────┘        172.30.0.0/24, fd30::/64
 *
 * `outside` is the nodes' default gateway and knows no route to any pod: what reaches it from a pod has been
 * masqueraded, and what it sends to a node port comes from beyond the cluster.
 */
export interface Topology {
  /** Prefix of all namespace names; removing the cluster removes all that begin with it. */
  readonly prefix: string;
  readonly machines: readonly Machine[];
}

export interface Machine {
  readonly name: string;
  readonly role: 'control' | 'node' | 'outside';
  readonly namespace: string;
  /** On eth0: IPv4 and IPv6. */
  readonly addresses: readonly [Ip, Ip];
}

export const OUTSIDE_ADDRESSES = ['203.0.113.10', '2001:db8:113::10'] as readonly string[] as readonly [
  Ip,
  Ip,
];
const CONTROL_HOST = 1;
const FIRST_NODE_HOST = 11;
const OUTSIDE_HOST = 254;
/** Fits between the first node's and the gateway's host number. */
export const MAX_NODES = OUTSIDE_HOST - FIRST_NODE_HOST;

/** No hyphen, so that no cluster's prefix begins another's. */
const NAME = /^[a-z0-9]{1,24}$/;

export function planTopology(name: string, nodes: number): Topology {
  const problems = [
    ...(NAME.test(name)
      ? []
      : [{ path: 'name', message: `"${name}" is not 1 to 24 lower-case letters and digits` }]),
    ...(Number.isInteger(nodes) && nodes >= 0 && nodes <= MAX_NODES
      ? []
      : [{ path: 'nodes', message: `${nodes} is not a whole number from 0 to ${MAX_NODES}` }]),
  ];
  if (problems.length > 0) throw new InputError('cluster', problems);
  const prefix = `fl-${name}-`;
  const machine = (role: Machine['role'], short: string, host: number): Machine => ({
    name: short,
    role,
    namespace: prefix + short,
    addresses: [`172.30.0.${host}` as Ip, `fd30::${host.toString(16)}` as Ip],
  });
  return {
    prefix,
    machines: [
      machine('control', 'control', CONTROL_HOST),
      ...Array.from({ length: nodes }, (_, i) => machine('node', `node-${i + 1}`, FIRST_NODE_HOST + i)),
      machine('outside', 'outside', OUTSIDE_HOST),
    ],
  };
}

/** Input of one `ip -batch` run; without a namespace it runs where the caller is. */
export interface Batch {
  readonly namespace?: string;
  readonly lines: readonly string[];
}

export function renderTopology({ prefix, machines }: Topology): Batch[] {
  const wire = `${prefix}wire`;
  const gateway = machines.find((machine) => machine.role === 'outside');
  return [
    { lines: [wire, ...machines.map((machine) => machine.namespace)].map((name) => `netns add ${name}`) },
    {
      namespace: wire,
      lines: [
        'link add wire type bridge',
        'link set wire up',
        ...machines.flatMap((machine, index) => [
          `link add port${index} mtu 1500 master wire type veth peer name eth0 mtu 1500 netns ${machine.namespace}`,
          `link set port${index} up`,
        ]),
      ],
    },
    ...machines.map((machine) => ({ namespace: machine.namespace, lines: machineLines(machine, gateway) })),
  ];
}

function machineLines({ role, addresses }: Machine, gateway: Machine | undefined): string[] {
  return [
    'link set lo up',
    'link set eth0 up',
    `addr add ${addresses[0]}/24 dev eth0`,
    `addr add ${addresses[1]}/64 dev eth0 nodad`,
    ...(role === 'outside' ? OUTSIDE_ADDRESSES.map((ip) => `addr add ${ip} dev lo`) : []),
    ...(role !== 'outside' && gateway !== undefined
      ? gateway.addresses.map((ip) => `route add default via ${ip}`)
      : []),
  ];
}
