import { setTimeout as sleep } from 'node:timers/promises';
import { familyOf } from '../core/address.ts';
import type { Descriptor } from '../native/index.ts';
import { isMissing } from './errors.ts';
import { LinkIndex } from './linkindex.ts';
import { type Monitor, monitor } from './netlink/monitor.ts';
import { batch, decodeChain, deleteTable, type TableName } from './netlink/nftables/messages.ts';
import { getChain, getRules } from './netlink/nftables/requests.ts';
import {
  decodeNumberedRule,
  decodeTrace,
  MSG_TRACE,
  NFNLGRP_NFTRACE,
  type NumberedRule,
  type TraceEvent,
  type TraceFilter,
  traceTable,
} from './netlink/nftables/trace.ts';
import { NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket } from './netlink/socket.ts';
import {
  type BaseChain,
  followPacket,
  hopsOf,
  type TraceHop,
  type TraceNames,
} from './nftables-trace-hops.ts';

export type { TraceHop, TraceHopStep } from './nftables-trace-hops.ts';

/** The tables that have packets traced begin so; a number follows. */
export const TRACE_TABLE_PREFIX = 'fairlead-trace-';
const POLL_MS = 20;
/** When no step has come for so long, the packet is through. */
const QUIET_MS = 200;
/** Steps of one packet; a rule set that needs more is shown as far as that. */
const EVENTS_MAX = 4096;

export interface TracerOptions {
  readonly filter: TraceFilter;
  /** The network namespace that the packets go through; else that of the process. Not kept. */
  readonly namespaceFd?: Descriptor | undefined;
  readonly signal: AbortSignal;
}

/**
 * Has the kernel trace packets, for as long as it is not disposed: a table of its own marks them. The table belongs to
 * this object's socket, so that it goes even when the process is killed.
 */
export class PacketTracer implements Disposable {
  readonly #options: TracerOptions;
  readonly #table: TableName;
  readonly #socket: NetlinkSocket;
  readonly #monitor: Monitor;
  readonly #events: TraceEvent[] = [];
  #lastEventMs = 0;
  #failure: Error | undefined;

  private constructor(options: TracerOptions, socket: NetlinkSocket, events: Monitor) {
    this.#options = options;
    const family = familyOf(options.filter.source) === 4 ? 'ip' : 'ip6';
    this.#table = { family, table: `${TRACE_TABLE_PREFIX}${process.pid}` };
    this.#socket = socket;
    this.#monitor = events;
  }

  /** From now on the packets are traced. Throws KernelError; EOPNOTSUPP or EINVAL: the kernel is older than 5.12. */
  static async open(options: TracerOptions): Promise<PacketTracer> {
    const { namespaceFd, signal, filter } = options;
    using stack = new DisposableStack();
    const socket = stack.use(NetlinkSocket.open(NETLINK_NETFILTER, { namespaceFd }));
    const protocol = NETLINK_NETFILTER;
    const events = stack.use(monitor([NFNLGRP_NFTRACE], { namespaceFd, signal, protocol }));
    const tracer = new PacketTracer(options, socket, events);
    const outcomes = await socket.transaction(batch(traceTable(tracer.#table, filter)));
    const refused = outcomes.find((outcome) => outcome !== undefined);
    if (refused !== undefined) throw refused;
    void tracer.#follow();
    stack.move();
    return tracer;
  }

  async #follow(): Promise<void> {
    try {
      for await (const event of this.#monitor) {
        if (event.kind === 'overrun') continue;
        for (const message of event.messages) {
          if (message.type === MSG_TRACE && this.#events.length < EVENTS_MAX)
            this.#events.push(decodeTrace(message));
        }
        this.#lastEventMs = performance.now();
      }
    } catch (error) {
      this.#failure = error as Error;
    }
  }

  /** Waits until a packet has come and gone; no hops: none came in time, or the signal was given. */
  async packet(timeoutMs: number): Promise<readonly TraceHop[]> {
    const { signal } = this.#options;
    const untilMs = performance.now() + timeoutMs;
    while (!signal.aborted && performance.now() < untilMs) {
      if (this.#failure !== undefined) throw this.#failure;
      const isQuiet = performance.now() > this.#lastEventMs + QUIET_MS;
      if (this.#own().length > 0 && isQuiet) break;
      await sleep(POLL_MS, undefined, { signal }).catch(() => {});
    }
    const events = this.#own();
    return events.length === 0 ? [] : hopsOf(events, await this.#names(events));
  }

  /** The steps of the first packet that the table marked, without the marking. */
  #own(): readonly TraceEvent[] {
    return followPacket(this.#events, this.#table);
  }

  async #names(events: readonly TraceEvent[]): Promise<TraceNames> {
    const { namespaceFd } = this.#options;
    using routes = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
    const links = await LinkIndex.read(routes);
    const rules = new Map<string, ReadonlyMap<bigint, NumberedRule>>();
    const chains = new Map<string, BaseChain>();
    for (const event of events) {
      const table = `${event.family} ${event.table}`;
      if (!rules.has(table)) rules.set(table, await this.#rules(event));
      const chain = `${table} ${event.chain}`;
      const base = event.packet && !chains.has(chain) ? await this.#baseChain(event) : undefined;
      if (base !== undefined) chains.set(chain, base);
    }
    return { rules, chains, linkName: (index) => links.at(index)?.name };
  }

  /** Empty for a table that has gone meanwhile. */
  async #rules(event: TraceEvent): Promise<ReadonlyMap<bigint, NumberedRule>> {
    const name = nameOf(event);
    if (name === undefined) return new Map();
    const messages = await this.#socket.dump(getRules(name)).catch(missing);
    const rules = messages?.map(decodeNumberedRule) ?? [];
    return new Map(rules.map((rule) => [rule.handle, rule]));
  }

  async #baseChain(event: TraceEvent): Promise<BaseChain | undefined> {
    const name = nameOf(event);
    if (name === undefined) return undefined;
    const [message] = (await this.#socket.request(getChain(name, event.chain)).catch(missing)) ?? [];
    return message && decodeChain(message).hook;
  }

  /** The table goes at once, and with the socket at the latest. */
  [Symbol.dispose](): void {
    this.#monitor[Symbol.dispose]();
    void this.#socket.transaction(batch([deleteTable(this.#table)])).catch(() => {});
    this.#socket[Symbol.dispose]();
  }
}

/** Undefined for families that no table of ours has. */
function nameOf({ family, table }: TraceEvent): TableName | undefined {
  return family === 'arp' || family === 'netdev' ? undefined : { family, table };
}

function missing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}
