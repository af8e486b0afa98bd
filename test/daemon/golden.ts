import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { type Cidr, type HostCidr, type Ip, parseCidr, parseHostCidr, parseIp } from '../../core/address.ts';
import { backendFor } from '../../daemon/backend/backends.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { type Lease, leaseFamilies, type PerFamily } from '../../daemon/lease.ts';
import { type NodePlan, planNode } from '../../daemon/node-plan.ts';
import type { Underlay } from '../../daemon/underlay.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';

// Configuration and leases in, rows out. REWRITE=1 writes what comes out; then review the difference.

/** Compares with `golden/NAME.txt`. */
export function golden(t: ExecutionContext, name: string, text: string): void {
  const path = join(import.meta.dirname, 'golden', `${name}.txt`);
  if (process.env.REWRITE === '1') writeFileSync(path, text);
  t.is(text, readFileSync(path, 'utf8'));
}

/** Addresses of a test; bad text is a mistake in the test. */
export const ip = (text: string): Ip => present(parseIp(text), text);
export const cidr = (text: string): Cidr => present(parseCidr(text), text);
export const hostCidr = (text: string): HostCidr => present(parseHostCidr(text), text);

function present<T>(value: T | undefined, text: string): T {
  if (value === undefined) throw new Error(`not an address: ${text}`);
  return value;
}

function perFamily<T>(values: readonly [string | undefined, string | undefined], parse: (text: string) => T) {
  const [v4, v6] = values;
  return { ...(v4 ? { 4: parse(v4) } : {}), ...(v6 ? { 6: parse(v6) } : {}) } as PerFamily<T>;
}

/** One node of a test: its number n gives it 10.244.n.0/24, fd00:10:244:n::/64, 192.0.2.n and 2001:db8::n. */
export interface TestNode {
  readonly n: number;
  readonly families?: readonly (4 | 6)[];
  /** Instead of 192.0.2.n and 2001:db8::n. */
  readonly publicIps?: PerFamily<string>;
  readonly backendType?: string;
  readonly data?: unknown;
  readonly subnets?: PerFamily<string>;
  readonly since?: number;
  readonly addresses?: readonly Ip[];
}

export function leaseOf(node: TestNode, backendType: string): Lease {
  const { n, families = [4], publicIps = {}, subnets = {} } = node;
  const has = (family: 4 | 6) => families.includes(family);
  const mac = (family: number) => ({
    VNI: 1,
    VtepMAC: `02:00:00:00:0${family}:${String(n).padStart(2, '0')}`,
  });
  const data = (family: 4 | 6) => ('data' in node ? node.data : backendType === 'vxlan' ? mac(family) : null);
  return {
    key: `node-${n}`,
    subnets: perFamily(
      [
        has(4) ? (subnets[4] ?? `10.244.${n}.0/24`) : undefined,
        has(6) ? (subnets[6] ?? `fd00:10:244:${n}::/64`) : undefined,
      ],
      cidr,
    ),
    publicIps: perFamily(
      [
        has(4) ? (publicIps[4] ?? `192.0.2.${n}`) : undefined,
        has(6) ? (publicIps[6] ?? `2001:db8::${n}`) : undefined,
      ],
      ip,
    ),
    ...('since' in node ? { since: node.since } : {}),
    ...('addresses' in node ? { addresses: node.addresses } : {}),
    backendType: node.backendType ?? backendType,
    backendData: { ...(has(4) ? { 4: data(4) } : {}), ...(has(6) ? { 6: data(6) } : {}) },
  };
}

/** The plan of node 1 among the given nodes. `onLink`: networks on its link besides its own. */
export function planOf(
  configText: string,
  nodes: readonly TestNode[],
  onLink: readonly string[] = [],
): NodePlan {
  const config = parseNetworkConfig(configText);
  const leases = nodes.map((node) => leaseOf(node, config.backend.type));
  const self = present(leases[0], 'node 1');
  const inUse = leaseFamilies(self);
  const underlay: Underlay = {
    device: 'eth0',
    mtuBytes: 1500,
    addresses: perFamily(
      [inUse.includes(4) ? '192.0.2.1/24' : undefined, inUse.includes(6) ? '2001:db8::1/64' : undefined],
      hostCidr,
    ),
    publicIps: self.publicIps,
    ...(onLink.length > 0 ? { onLink: onLink.map(cidr) } : {}),
  };
  const networks = Object.fromEntries(inUse.map((family) => [family, config.networks[family]?.network]));
  const sysctls = new Map([
    ['net/ipv6/conf/eth0/accept_ra', '1'],
    ['net/bridge/bridge-nf-call-iptables', '0'],
    ['net/bridge/bridge-nf-call-ip6tables', '0'],
  ]);
  const byKey = new Map(leases.map((lease) => [lease.key, lease]));
  const facts = { nodeName: 'node-1', self, leases: byKey, networks, underlay, sysctls };
  return planNode(facts, backendFor(config.backend, { stateDir: '/nonexistent' }));
}

/** A plan as lines: table, key, and what the key does not say. */
export function planText(plan: NodePlan): string {
  const table = <V>(name: string, rows: ReadonlyMap<string, V>, say: (row: V) => string) =>
    [...rows].map(([key, row]) => `${name} ${key} ${say(row)}`.trimEnd());
  return [
    ...table('sysctl', plan.sysctls, (value) => `= ${value}`),
    ...table('link', plan.links, ({ name: _, ...row }) => JSON.stringify(row)),
    ...table('offload', plan.offloads, ({ transmitChecksum }) => (transmitChecksum ? 'on' : 'off')),
    ...table('address', plan.addresses, () => ''),
    ...table('neighbor', plan.neighbors, ({ mac }) => `lladdr ${mac}`),
    ...table('fdb', plan.fdb, () => ''),
    ...table(
      'route',
      plan.routes,
      (row) =>
        `${row.gateway ? `via ${row.gateway} ` : ''}dev ${row.device}${row.onlink ? ' onlink' : ''}${row.encapsulation ? ` encap ${JSON.stringify(row.encapsulation)}` : ''}`,
    ),
    ...table('nft', plan.nft, (_: NftElement) => ''),
    ...plan.problems.map((problem) => `problem ${problem}`),
    `peers ${plan.peers}`,
    '',
  ].join('\n');
}
