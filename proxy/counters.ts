import type { Family } from '../core/address.ts';
import { Slices } from '../kernel/nftables-slices.ts';
import type { Views } from './backend.ts';
import type { FlowBytes } from './counters-bytes.ts';
import type { Protocol } from './protocol.ts';
import type { Frontend, ServicePortView } from './view.ts';

/*
 * Counters of single Services for `/metrics`. Text is made here and not by prom-client: ten thousand Services are
 * tens of thousands of lines, for which nothing else must wait. A series appears with its first connection, because
 * a node sees connections to few of all Services.
 */

/** New connections by frontend. */
export interface ConnectionCounts {
  /** Asks the kernel. One reading at a time. Rejects with KernelError. */
  read(): Promise<void>;
  /** As of the last reading. */
  to(family: Family, frontend: Frontend, protocol: Protocol): number;
  /** Forgets frontends that `to` was not asked for since the last time. */
  forgetUnwanted(): void;
}

/** Bytes by frontend kind. */
export interface ByteCounts {
  /** Asks the kernel for what the flows to these have moved. One reading at a time. Rejects with KernelError. */
  read(views: Views): Promise<void>;
  /** Of one port of one Service in one family, as of the last reading. */
  of(port: ServicePortView, kind: Frontend['kind']): FlowBytes | undefined;
}

/** What is counted; undefined: it is not. */
export interface Counted {
  readonly connections?: ConnectionCounts | undefined;
  readonly bytes?: ByteCounts | undefined;
}

export interface ServiceCountersOptions extends Counted {
  readonly views: () => Views;
  /** The kernel did not say; what it said before is shown. */
  readonly onFailure: (error: Error) => void;
}

/** Scrapes that come one upon the other get the same. */
const CACHE_MS = 1_000;

/** The text of all counters, which asks the kernel when it is asked for. Dispose of it before what it reads from. */
export class ServiceCounters implements AsyncDisposable {
  readonly #options: ServiceCountersOptions;
  #text: Promise<string> | undefined;
  #isStopped = false;
  #madeAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ServiceCountersOptions) {
    this.#options = options;
  }

  /** Prometheus' text format; empty when nothing is counted. */
  text(): Promise<string> {
    const isFresh = performance.now() < this.#madeAtMs + CACHE_MS;
    if (this.#text !== undefined && (isFresh || this.#isStopped)) return this.#text;
    // Until it is made, everybody waits for the one.
    this.#madeAtMs = Number.POSITIVE_INFINITY;
    this.#text = this.#make().finally(() => {
      this.#madeAtMs = performance.now();
    });
    return this.#text;
  }

  async #make(): Promise<string> {
    const { connections, bytes, views, onFailure } = this.#options;
    const wanted = views();
    await connections?.read().catch(onFailure);
    await bytes?.read(wanted).catch(onFailure);
    const slices = new Slices();
    await slices.next();
    const text = await slices.run(renderCounters(wanted, { connections, bytes }));
    await slices.next();
    connections?.forgetUnwanted();
    return text;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#text ??= Promise.resolve('');
    this.#isStopped = true;
    await this.#text.catch(() => {});
  }
}

const CONNECTIONS = 'fairlead_proxy_service_connections_total';
const BYTES = 'fairlead_proxy_service_bytes_total';

/** A step for each service. */
export function* renderCounters(views: Views, { connections, bytes }: Counted): Generator<void, string> {
  const lines: { connections: string[]; bytes: string[] } = { connections: [], bytes: [] };
  for (const [service, ports] of views) {
    for (const [labels, sums] of sumsOf(service, ports, { connections, bytes })) {
      const { count, received, sent } = sums;
      if (count > 0) lines.connections.push(`${CONNECTIONS}{${labels}} ${count}\n`);
      if (received > 0) lines.bytes.push(`${BYTES}{${labels},direction="in"} ${received}\n`);
      if (sent > 0) lines.bytes.push(`${BYTES}{${labels},direction="out"} ${sent}\n`);
    }
    yield;
  }
  const head = (name: string, help: string) => `# HELP ${name} ${help}\n# TYPE ${name} counter\n`;
  return [
    ...(connections ? [head(CONNECTIONS, 'New connections to Services'), ...lines.connections] : []),
    ...(bytes ? [head(BYTES, 'Bytes of connections to Services, to and from them'), ...lines.bytes] : []),
  ].join('');
}

interface Sums {
  count: number;
  received: number;
  sent: number;
}

/** Of one service, by labels: both families together, and all addresses of one kind. */
function sumsOf(service: string, ports: readonly ServicePortView[], counted: Counted): Map<string, Sums> {
  const sums = new Map<string, Sums>();
  for (const port of ports) {
    const kinds = new Set<Frontend['kind']>();
    for (const frontend of distinct(port.frontends)) {
      const count = counted.connections?.to(port.family, frontend, port.protocol) ?? 0;
      if (count > 0) sumOf(sums, service, port, frontend.kind).count += count;
      kinds.add(frontend.kind);
    }
    for (const kind of counted.bytes === undefined ? [] : kinds) {
      const moved = counted.bytes?.of(port, kind);
      if (moved === undefined) continue;
      const sum = sumOf(sums, service, port, kind);
      sum.received += moved.original;
      sum.sent += moved.reply;
    }
  }
  return sums;
}

/** An address may be there twice, as an external one and as the load balancer's: it counts as the first. */
function distinct(frontends: readonly Frontend[]): readonly Frontend[] {
  if (frontends.length < 3) return frontends;
  const seen = new Set<number | string>();
  return frontends.filter((frontend) => {
    const id = frontend.kind === 'nodePort' ? frontend.port : frontend.ip;
    return seen.size !== seen.add(id).size;
  });
}

function sumOf(
  sums: Map<string, Sums>,
  service: string,
  { name, protocol }: ServicePortView,
  kind: Frontend['kind'],
): Sums {
  const slash = service.indexOf('/');
  const labels = [
    `namespace="${escaped(service.slice(0, slash))}"`,
    `name="${escaped(service.slice(slash + 1))}"`,
    `port="${escaped(name.slice(name.lastIndexOf(':') + 1))}"`,
    `protocol="${protocol.toUpperCase()}"`,
    `frontend_kind="${kind}"`,
  ].join();
  const sum = sums.get(labels) ?? { count: 0, received: 0, sent: 0 };
  sums.set(labels, sum);
  return sum;
}

function escaped(value: string): string {
  return /[\\"\n]/.test(value)
    ? value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
    : value;
}
