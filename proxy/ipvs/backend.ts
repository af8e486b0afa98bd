import { existsSync } from 'node:fs';
import { cidrContains, type Family, families, type Ip } from '../../core/address.ts';
import { type ServerAddress, serverKey } from '../../kernel/ipvs.ts';
import type { NftElement, NftLayout } from '../../kernel/netlink/nftables/spec.ts';
import type { Backend, SyncResult, Views } from '../backend.ts';
import type { IpvsSettings } from '../config/config.ts';
import { nodeElements, podDetector } from '../nftables/node-elements.ts';
import { LocalAddresses } from '../node-ports.ts';
import type { NodeFacts, ProxyPolicy } from '../policy.ts';
import { type ActualRows, IpvsKernel } from './kernel.ts';
import { ipvsLayout } from './layout.ts';
import { IpvsPlan, isForNodePorts } from './plan.ts';

export interface IpvsOptions {
  readonly policy: ProxyPolicy;
  /** Default: kube-proxy's. */
  readonly settings?: Partial<IpvsSettings> | undefined;
  /** The node's network namespace; else that of the process. Must stay open as long as the backend. */
  readonly namespaceFd?: number | undefined;
  /**
   * For how long at most a TCP endpoint that has gone keeps its connections. Default: 15 minutes, which is also how
   * long IPVS remembers a connection on which nothing happens.
   */
  readonly drainMs?: number | undefined;
  /** How long after one look at virtual servers and draining endpoints they are looked at again; more where it takes long. */
  readonly lookIntervalMs?: number | undefined;
  /** Told when the kernel refused a change and a table of nftables is made anew. */
  readonly onRefused?: ((error: Error) => void) | undefined;
}

const usualSettings: IpvsSettings = {
  scheduler: 'rr',
  excludeCidrs: [],
  strictArp: false,
  tcpTimeoutMs: 0,
  tcpFinTimeoutMs: 0,
  udpTimeoutMs: 0,
};

const DRAIN_MS = 15 * 60_000;
const LOOK_INTERVAL_MS = 2_000;
/** Looking takes at most one part of so many of the time. */
const LOOK_SHARE = 20;
const nothingDone: SyncResult = { writes: 0, failures: [] };

/** The services as virtual servers of IPVS. Nothing is opened before the first `replace`, which throws where there is no IPVS. */
export function openIpvs(options: IpvsOptions): IpvsBackend {
  return new IpvsBackend(options);
}

export class IpvsBackend implements Backend {
  readonly name = 'ipvs';
  readonly #options: IpvsOptions;
  readonly #settings: IpvsSettings;
  readonly #plan: IpvsPlan;
  readonly #families = supportedFamilies();
  readonly #stop = new AbortController();
  readonly #lookIntervalMs: number;
  #kernel: IpvsKernel | undefined;
  #local: LocalAddresses | undefined;
  #deviceIndex: number | undefined;
  #facts: NodeFacts = { nodePortIps: { 4: 'all', 6: 'all' }, serviceCidrs: [] };
  /** One thing at a time: passes, looks, and what drains. */
  #queue: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #hasNewAddresses = false;
  #isSuspect = false;
  #lookAgainAtMs = 0;

  constructor(options: IpvsOptions) {
    this.#options = options;
    this.#settings = { ...usualSettings, ...options.settings };
    this.#lookIntervalMs = options.lookIntervalMs ?? LOOK_INTERVAL_MS;
    const { drainMs = DRAIN_MS } = options;
    this.#plan = new IpvsPlan({
      families: this.#families,
      scheduler: this.#settings.scheduler,
      drainMs,
      now: () => performance.now(),
    });
  }

  /** Reads all of our servers with their destinations, and writes what is not as wanted. */
  replace(views: Views): Promise<SyncResult> {
    return this.#alone(async () => {
      const kernel = await this.#open();
      this.#isSuspect = false;
      await kernel.foreign.mark();
      const prepared = await kernel.prepare();
      await this.#readAddresses(kernel);
      this.#tellNode(kernel);
      this.#plan.follow(views);
      const actual = await kernel.read();
      this.#adopt(actual);
      this.#plan.drain();
      const result = await kernel.write(await kernel.differences(actual));
      this.#plan.drain();
      return { ...result, writes: result.writes + prepared };
    });
  }

  update(changed: Views): Promise<SyncResult> {
    return this.#alone(async () => {
      for (const [service, ports] of changed) this.#plan.put(service, ports);
      return await this.#write();
    });
  }

  updateNode(facts: NodeFacts): Promise<SyncResult> {
    this.#facts = facts;
    return this.#alone(async () => {
      if (this.#kernel === undefined) return nothingDone;
      this.#tellNode(this.#kernel);
      return await this.#write();
    });
  }

  async #write(): Promise<SyncResult> {
    return (await this.#kernel?.write(this.#plan.drain())) ?? nothingDone;
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work).finally(() => this.#watchDraining());
    this.#queue = result.catch(() => {});
    return result;
  }

  async #open(): Promise<IpvsKernel> {
    if (this.#kernel !== undefined) return this.#kernel;
    const { namespaceFd, onRefused, policy } = this.#options;
    const { masqueradeAll, masqueradeBit, detectLocal } = policy;
    const layouts: Partial<Record<Family, NftLayout>> = {};
    for (const family of this.#families) {
      const detector = podDetector(family, detectLocal);
      layouts[family] = ipvsLayout({ family, detector, masqueradeAll, masqueradeBit });
    }
    this.#kernel = await IpvsKernel.open({
      plan: this.#plan,
      settings: this.#settings,
      layouts,
      namespaceFd,
      onRefused,
      isLeft: (address) => this.#isLeft(address),
    });
    return this.#kernel;
  }

  /** Servers without our mark: on our device's addresses, or where we want one ourselves. */
  #isLeft(address: ServerAddress): boolean {
    const { ip } = address;
    if (this.#settings.excludeCidrs.some((cidr) => cidrContains(cidr, ip))) return false;
    return this.#plan.servers.has(serverKey(address)) || this.#held.has(ip);
  }

  /** What lies on our device, as far as we were told. */
  get #held(): ReadonlySet<Ip> {
    return this.#local?.split(this.#deviceIndex).there ?? new Set();
  }

  async #readAddresses(kernel: IpvsKernel): Promise<void> {
    this.#deviceIndex = await kernel.deviceIndex();
    this.#local ??= await LocalAddresses.open({
      namespaceFd: this.#options.namespaceFd,
      signal: this.#stop.signal,
      onChange: () => {
        this.#hasNewAddresses = true;
      },
      onError: () => {
        this.#isSuspect = true;
      },
    });
  }

  #tellNode({ schedulers }: IpvsKernel): void {
    const foreignIps = this.#local?.split(this.#deviceIndex).elsewhere ?? new Set<Ip>();
    const nodePortIps = { 4: this.#nodePortIps(4, foreignIps), 6: this.#nodePortIps(6, foreignIps) };
    const facts = { ...this.#facts, nodePortIps };
    const { detectLocal } = this.#options.policy;
    const elements: Record<Family, NftElement[]> = { 4: [], 6: [] };
    for (const family of families) elements[family] = nodeElements(family, detectLocal, facts);
    this.#plan.setNode({ foreignIps, nodePortIps, schedulers }, elements);
  }

  #nodePortIps(family: Family, local: ReadonlySet<Ip>): readonly Ip[] {
    const wanted = this.#facts.nodePortIps[family];
    const held = this.#held;
    // Who lists the node's addresses may have found those of services, which are the node's because of us.
    const isService = (ip: Ip) => !local.has(ip) && (held.has(ip) || this.#plan.addresses.has(ip));
    if (wanted !== 'all') return wanted.filter((ip) => !isService(ip));
    return [...local].filter((ip) => ip.includes(':') === (family === 6) && isForNodePorts(ip)).sort();
  }

  /** What drains and is over; and what another process left to drain, or lost while nobody looked. */
  #adopt({ servers, destinations }: ActualRows): void {
    const held = this.#held;
    for (const key of this.#plan.draining.keys()) {
      const { weight = 0, connections = 0 } = destinations.get(key) ?? {};
      if (weight === 0 && connections === 0) this.#plan.endDrain(key);
    }
    for (const row of destinations.values()) {
      const server = servers.get(serverKey(row.server));
      if (server === undefined || row.server.protocol !== 'tcp' || row.connections === 0) continue;
      this.#plan.drainDestination(row, { ...server, schedulerFlags: 0 }, held.has(server.ip));
    }
  }

  #watchDraining(pauseMs = this.#lookIntervalMs): void {
    const { draining } = this.#plan;
    if (draining.size === 0 || this.#timer !== undefined || this.#stop.signal.aborted) return;
    const firstEndMs = Math.min(...Array.from(draining.values(), ({ untilMs }) => untilMs));
    const waitMs = Math.max(this.#lookIntervalMs, Math.min(pauseMs, firstEndMs - performance.now()));
    this.#timer = setTimeout(() => {
      void this.#alone(() => this.#lookAtDraining()).then(
        (tookMs) => this.#watchDrainingAgain(tookMs),
        () => {
          this.#isSuspect = true;
          this.#watchDrainingAgain(0);
        },
      );
    }, waitMs).unref();
  }

  #watchDrainingAgain(tookMs: number): void {
    this.#timer = undefined;
    this.#watchDraining(tookMs * LOOK_SHARE);
  }

  /** Endpoints that have no connection any more, or have had their time, go. How long it took. */
  async #lookAtDraining(): Promise<number> {
    const plan = this.#plan;
    const startMs = performance.now();
    if (this.#kernel === undefined) return 0;
    const there = await this.#kernel.destinations.readOf(plan.drainingServers());
    const nowMs = performance.now();
    for (const [key, { untilMs }] of plan.draining) {
      const { connections = 0 } = there.get(key) ?? {};
      if (connections === 0 || untilMs <= nowMs) plan.endDrain(key);
    }
    const { failures } = await this.#write();
    if (failures.length > 0) this.#isSuspect = true;
    return performance.now() - startMs;
  }

  /** Rules by the kernel's own word; servers by looking, for IPVS tells nobody. */
  isDisturbed(): Promise<boolean> {
    return this.#alone(async () => {
      const kernel = this.#kernel;
      if (kernel === undefined) return false;
      return this.#isSuspect || (await kernel.foreign.any()) || (await this.#isOther(kernel));
    });
  }

  isDamaged(): Promise<boolean> {
    return this.#alone(async () => {
      const kernel = this.#kernel;
      if (kernel === undefined) return false;
      return (await kernel.areTablesDamaged()) || (await this.#isOther(kernel));
    });
  }

  /** Addresses by the kernel's own word, servers by looking. */
  async #isOther(kernel: IpvsKernel): Promise<boolean> {
    if (this.#hasNewAddresses) {
      this.#hasNewAddresses = false;
      if (await this.#areAddressesOther(kernel)) return true;
    }
    const startMs = performance.now();
    if (startMs < this.#lookAgainAtMs) return false;
    const isOther = await this.#areServersOther(kernel);
    const tookMs = performance.now() - startMs;
    this.#lookAgainAtMs = startMs + Math.max(this.#lookIntervalMs, tookMs * LOOK_SHARE);
    return isOther;
  }

  async #areAddressesOther(kernel: IpvsKernel): Promise<boolean> {
    const { elsewhere, there } = this.#local?.split(this.#deviceIndex) ?? {};
    if (elsewhere === undefined || there === undefined) return false;
    if (this.#plan.isMovedBy(elsewhere, this.#facts)) return true;
    const wanted = this.#plan.addresses;
    if ([...wanted.values()].every((ip) => there.has(ip))) return false;
    // Our own last ones may not have been told of yet.
    const actual = await kernel.addresses.read();
    return [...wanted.values()].some((ip) => !actual.has(ip));
  }

  async #areServersOther(kernel: IpvsKernel): Promise<boolean> {
    const actual = await kernel.servers.read();
    const wanted = this.#plan.servers.rows();
    if (wanted.size !== actual.size) return true;
    for (const [key, row] of wanted) {
      const there = actual.get(key);
      if (there === undefined || !kernel.servers.same(row, there)) return true;
    }
    return false;
  }

  problems(): ReadonlyMap<string, string> {
    return this.#plan.problems;
  }

  /** All stays as it is, so that connections outlive a restart. */
  [Symbol.dispose](): void {
    this.#stop.abort();
    clearTimeout(this.#timer);
    const [kernel, local] = [this.#kernel, this.#local];
    void this.#queue.then(() => {
      local?.[Symbol.dispose]();
      kernel?.[Symbol.dispose]();
    });
  }
}

function supportedFamilies(): readonly Family[] {
  return existsSync('/proc/net/if_inet6') ? families : [4];
}
