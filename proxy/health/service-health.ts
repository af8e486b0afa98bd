import type { Logger } from 'pino';
import type { Ip } from '../../core/address.ts';
import type { NodeFacts } from '../policy.ts';
import type { ServiceHealthCheck } from '../view.ts';
import { type Handler, type Listening, listenHttp } from './http.ts';
import { serviceHealthAnswer } from './proxy-health.ts';

/** Every address of both families, or of IPv4 where the kernel has no IPv6. */
const everywhere = '::' as Ip;
const everywhereV4 = '0.0.0.0' as Ip;

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
  #ips: readonly Ip[] | undefined;
  #isStopped = false;
  #running: Promise<void> | undefined;
  #isAgain = false;

  constructor(options: ServiceHealthOptions) {
    this.#options = options;
  }

  /** Where node ports are open: health checks are there, too. Counts from the next sync on. */
  setNodePortIps({ 4: v4, 6: v6 }: NodeFacts['nodePortIps']): void {
    const isEverywhere = v4 === 'all' || v6 === 'all' || v4.length + v6.length === 0;
    this.#ips = isEverywhere ? undefined : [...v4, ...v6].toSorted();
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
    return this.#ips?.join() ?? '';
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
    for (const one of await listenOn(this.#ips, port, handler)) opened.use(one);
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

/** All of them or none. */
async function listenOn(
  ips: readonly Ip[] | undefined,
  port: number,
  handler: Handler,
): Promise<Listening[]> {
  if (ips === undefined) return [await listenEverywhere(port, handler)];
  await using opened = new AsyncDisposableStack();
  const listening: Listening[] = [];
  for (const host of ips) listening.push(opened.use(await listenHttp({ host, port }, handler)));
  opened.move();
  return listening;
}

async function listenEverywhere(port: number, handler: Handler): Promise<Listening> {
  try {
    return await listenHttp({ host: everywhere, port }, handler);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'EAFNOSUPPORT' && code !== 'EADDRNOTAVAIL') throw error;
    return await listenHttp({ host: everywhereV4, port }, handler);
  }
}
