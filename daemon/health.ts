import { Counter, Gauge, Registry } from 'prom-client';
import type { Daemon } from './daemon.ts';
import type { DaemonStatus } from './status.ts';

/** The kernel's tables are looked at each minute; an agent that has not for as long as this hangs. */
const stuckSeconds = 300;

export interface HealthAnswer {
  readonly status: 200 | 503;
  readonly type: string;
  readonly body: string;
}

/** For whoever restarts the agent: only what a restart can mend is its fault, so a store that is away is not. */
export function healthzAnswer({ idleSeconds }: Pick<DaemonStatus, 'idleSeconds'>): HealthAnswer {
  if (idleSeconds < stuckSeconds) return textAnswer(200, ['fairlead is running']);
  return textAnswer(503, [`fairlead hangs: no pass over the kernel's tables for ${idleSeconds} seconds`]);
}

/** What the answer of `/readyz` is made of. */
export type Readiness = Pick<
  DaemonStatus,
  | 'ready'
  | 'inLine'
  | 'problems'
  | 'peers'
  | 'unreachable'
  | 'freeAddresses'
  | 'repaired'
  | 'storeBehindSeconds'
>;

/** Whether pods here have a network, now: every row of the plan was in the kernel, and was after the last pass. */
export function readyzAnswer(status: Readiness): HealthAnswer {
  const { ready, inLine, problems } = status;
  if (ready && inLine) return textAnswer(200, ['fairlead is ready', ...figures(status), ...problems]);
  const verdict = ready ? 'fairlead is not ready any more' : 'fairlead is not ready yet';
  return textAnswer(503, [verdict, ...figures(status), ...problems]);
}

function figures({
  peers,
  unreachable,
  freeAddresses,
  repaired,
  storeBehindSeconds: behind,
}: Readiness): string[] {
  const free = Object.entries(freeAddresses).map(([subnet, count]) => `${count} in ${subnet}`);
  return [
    `nodes reached: ${peers} of ${peers + unreachable}`,
    `store: ${behind === 0 ? 'followed' : `not followed for ${behind} seconds`}`,
    `free addresses: ${free.join(', ') || 'none yet'}`,
    `rows repaired: ${repaired}`,
  ];
}

function textAnswer(status: HealthAnswer['status'], lines: readonly string[]): HealthAnswer {
  return { status, type: 'text/plain; charset=utf-8', body: `${lines.join('\n')}\n` };
}

/** The number behind each gauge, or behind each counter. Names are `fairlead_node_…`. */
const gauges: Readonly<Record<string, readonly [help: string, value: (status: DaemonStatus) => number]>> = {
  ready: ['1 once every row has been in the kernel', ({ ready }) => Number(ready)],
  in_line: ['1 if the last pass left every row in the kernel', ({ inLine }) => Number(inLine)],
  peers: ['Other nodes that this one has a way to', ({ peers }) => peers],
  peers_unreachable: ['Other nodes that this one has no way to', ({ unreachable }) => unreachable],
  store_behind_seconds: [
    'For how long changes in the store of leases may have been missed',
    ({ storeBehindSeconds }) => storeBehindSeconds,
  ],
  idle_seconds: ['Since the last pass ended', ({ idleSeconds }) => idleSeconds],
  problems: ['What is wrong at the moment, see fairlead status', ({ problems }) => problems.length],
};
const counters: typeof gauges = {
  passes_total: ["Passes over the kernel's tables", ({ passes }) => passes],
  rows_written_total: ['Rows written to the kernel', ({ writes }) => writes],
  rows_repaired_total: ['Of these, rows that somebody else had removed', ({ repaired }) => repaired],
};

/** A registry that asks the daemon at each scrape. */
export function openNodeMetrics(
  daemon: Pick<Daemon, 'status' | 'freeAddresses' | 'tunnelPackets'>,
): Registry {
  const registry = new Registry();
  const registers = [registry];
  for (const [name, [help, value]] of Object.entries(gauges)) {
    const collect = (): void => gauge.set(value(daemon.status()));
    const gauge: Gauge = new Gauge({ name: `fairlead_node_${name}`, help, registers, collect });
  }
  for (const [name, [help, value]] of Object.entries(counters)) {
    const collect = () => {
      counter.reset();
      counter.inc(value(daemon.status()));
    };
    const counter: Counter = new Counter({ name: `fairlead_node_${name}`, help, registers, collect });
  }
  const free = new Gauge({
    name: 'fairlead_node_free_addresses',
    help: "Addresses that pods here may still have, by this node's subnet",
    labelNames: ['subnet'],
    registers,
    collect: () => {
      free.reset();
      for (const [subnet, count] of daemon.freeAddresses()) free.set({ subnet }, count);
    },
  });
  const packets = new Counter({
    name: 'fairlead_node_tunnel_packets_total',
    help: 'Packets that went through this process (backend udp): carried, or dropped by why',
    labelNames: ['what'],
    registers,
    collect: () => {
      packets.reset();
      for (const [what, count] of Object.entries(daemon.tunnelPackets() ?? {})) packets.inc({ what }, count);
    },
  });
  return registry;
}
