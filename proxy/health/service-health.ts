import type { Logger } from 'pino';
import type { Ip } from '../../core/address.ts';
import type { NodeFacts } from '../policy.ts';
import type { ServiceHealthCheck } from '../view.ts';
import { type Handler, type Listening, listenHttp } from './http.ts';
import { serviceHealthAnswer } from './proxy-health.ts';

/** An address to listen on; the one that stands for all of IPv6 may stand for those of IPv4 as well. */
interface Host {
  readonly host: Ip;
  readonly ipv6Only?: boolean;
}

const everywhereV4: Host = { host: '0.0.0.0' as Ip };
const everywhereV6: Host = { host: '::' as Ip, ipv6Only: true };
/** Every address of both families, or of IPv4 where the kernel has no IPv6. */
const everywhere: readonly Host[] = [{ host: '::' as Ip }];

function hostsOf({ 4: v4, 6: v6 }: NodeFacts['nodePortIps']): readonly Host[] {
  if (v4 === 'all' && v6 === 'all') return everywhere;
  const hosts = (ips: readonly Ip[]) => ips.toSorted().map((host): Host => ({ host }));
  return [...(v4 === 'all' ? [everywhereV4] : hosts(v4)), ...(v6 === 'all' ? [everywhereV6] : hosts(v6))];
}

export interface ServiceHealthOptions {
  /** Whether the rules are kept up: without that no endpoint is good. */
  readonly isProxyHealthy: () => boolean;
  /** Told once of each port that cannot be listened on, until it can. */
  readonly onFailure?: (service: string, port: number, error: Error) => void;
  readonly log: Logger;
}

interface ServiceServer extends AsyncDisposable {
  readonly port: number;
  /** Where it listens, as text to compare. */
  readonly place: string;
}

/**
 * The servers of `healthCheckNodePort`: a load balancer asks every node, and sends to those with local endpoints.
 * A port that cannot be opened is tried again at the next sync.
 */
export class ServiceHealthServers implements AsyncDisposable {
  readonly #options: ServiceHealthOptions;
  readonly #servers = new Map<string, ServiceServer>();
  readonly #failed = new Map<string, number>();
  #checks: ReadonlyMap<string, ServiceHealthCheck> = new Map();
  #hosts: readonly Host[] = everywhere;
  #isStopped = false;
  #running: Promise<void> | undefined;
  #isAgain = false;

  constructor(options: ServiceHealthOptions) {
    this.#options = options;
  }

  /**
   * Where node ports are open: health checks are there, too, and nowhere else, as long as the node has none of these
   * addresses. Counts from the next sync on.
   */
  setNodePortIps(nodePortIps: NodeFacts['nodePortIps']): void {
    this.#hosts = hostsOf(nodePortIps);
  }

  /** Services by `namespace/name`, with what they want and have now. Fulfilled when servers are as wanted. */
  sync(checks: ReadonlyMap<string, ServiceHealthCheck>): Promise<void> {
    this.#checks = new Map(checks);
    this.#isAgain = this.#running !== undefined;
    this.#running ??= this.#run();
    return this.#running;
  }

  async #run(): Promise<void> {
    do {
      this.#isAgain = false;
      await this.#close();
      await this.#open();
    } while (this.#isAgain && !this.#isStopped);
    this.#running = undefined;
  }

  get #place(): string {
    return this.#hosts.map(({ host, ipv6Only }) => `${host} ${ipv6Only}`).join();
  }

  /** First, so that a port can go from one Service to another. */
  async #close(): Promise<void> {
    for (const [service, server] of this.#servers) {
      const isWanted = this.#checks.get(service)?.port === server.port && server.place === this.#place;
      if (isWanted) continue;
      this.#servers.delete(service);
      await server[Symbol.asyncDispose]();
    }
    for (const [service, port] of this.#failed) {
      if (this.#checks.get(service)?.port !== port) this.#failed.delete(service);
    }
  }

  async #open(): Promise<void> {
    for (const [service, { port }] of this.#checks) {
      if (this.#servers.has(service) || this.#isStopped) continue;
      try {
        this.#servers.set(service, await this.#listen(service, port));
        this.#failed.delete(service);
      } catch (error) {
        this.#fail(service, port, error as Error);
      }
    }
  }

  #fail(service: string, port: number, error: Error): void {
    if (this.#failed.get(service) === port) return;
    this.#failed.set(service, port);
    const { log, onFailure } = this.#options;
    log.error({ service, port, error: error.message }, 'cannot serve the health check');
    onFailure?.(service, port, error);
  }

  async #listen(service: string, port: number): Promise<ServiceServer> {
    const handler: Handler = () =>
      serviceHealthAnswer(service, {
        localEndpoints: this.#checks.get(service)?.localReadyEndpoints ?? 0,
        isProxyHealthy: this.#options.isProxyHealthy(),
      });
    const place = this.#place;
    await using opened = new AsyncDisposableStack();
    for (const one of await listenOn(this.#hosts, port, handler)) opened.use(one);
    const stack = opened.move();
    return { port, place, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isStopped = true;
    await this.#running;
    this.#checks = new Map();
    await this.#close();
  }
}

/** All of them or none. Where the kernel has no IPv6, its addresses are none. */
async function listenOn(hosts: readonly Host[], port: number, handler: Handler): Promise<Listening[]> {
  await using opened = new AsyncDisposableStack();
  const listening: Listening[] = [];
  for (const host of hosts) {
    const one = await listenAt(host, port, handler);
    if (one !== undefined) listening.push(opened.use(one));
  }
  opened.move();
  return listening;
}

async function listenAt(host: Host, port: number, handler: Handler): Promise<Listening | undefined> {
  try {
    return await listenHttp({ ...host, port }, handler);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (host.host !== '::' || (code !== 'EAFNOSUPPORT' && code !== 'EADDRNOTAVAIL')) throw error;
    return host.ipv6Only ? undefined : await listenHttp({ ...everywhereV4, port }, handler);
  }
}
