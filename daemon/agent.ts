import { isDeepStrictEqual } from 'node:util';
import type { NodeNetwork } from '../cni/server.ts';
import { type Cidr, families } from '../core/address.ts';
import { type Report, reconcile } from '../core/reconcile.ts';
import type { Plan } from '../core/rows.ts';
import { LinkIndex } from '../kernel/linkindex.ts';
import type { Standing, TunnelPackets } from './backend/backend.ts';
import type { NetworkConfig } from './config.ts';
import { configObstacles } from './config-change.ts';
import { Failures, isAboutPeer, letsPodsStart, withoutRefused } from './failures.ts';
import { removeFlannelTwins } from './flannel-remains.ts';
import { followConfig, followKernel, followUnheard, poll } from './follow.ts';
import { type KernelInterest, kernelInterest } from './kernel-events.ts';
import { advance } from './known-rows.ts';
import type { Lease, LeaseAttributes, LeaseView } from './lease.ts';
import { type Dirt, Loop, type Outcome } from './loop.ts';
import { masqueradeLayout } from './masquerade.ts';
import { NodeFiles } from './node-files.ts';
import { type NodePlan, planNode } from './node-plan.ts';
import { type DaemonOptions, type DaemonTiming, planWishes } from './options.ts';
import { OwnLease } from './own-lease.ts';
import { PassCounts } from './pass-counts.ts';
import { PodNetwork } from './pod-network.ts';
import { Problems } from './problems.ts';
import { announcedIps, type Setup, setUp, wishedSelector } from './setup.ts';
import { type DaemonStatus, renderStatus } from './status.ts';
import { NodeTables } from './tables.ts';
import { followUnderlay, type Underlay, type UnderlayFacts, type UnderlaySelector } from './underlay.ts';
import { readUnderlayFacts } from './underlay-facts.ts';

/** Waits for more of the same. */
const leaseSettleMs = 5;
const kernelSettleMs = 50;
/** Asking whether somebody changed nftables takes 2 µs; notifications would make every change of it slower. */
const nftablesPollMs = 400;
/** So long a node waits for addresses of all families; then it begins with those that it has. */
const wholeUnderlayMs = 10_000;
const timingDefaults: DaemonTiming = { resyncMs: 60_000, retryMs: 200, retryMostMs: 10_000 };
/** What a pass reads of this node. */
interface World {
  readonly selector: UnderlaySelector;
  readonly facts: UnderlayFacts;
  readonly underlay: Underlay;
  readonly sysctls: ReadonlyMap<string, string>;
}

/**
 * One worker that makes the kernel what the leases say. Events only mark dirty; every pass plans from the
 * present facts and diffs against what is there, so nothing depends on what happened before.
 */
export class NodeAgent implements Disposable {
  readonly ready: Promise<void>;
  readonly #options: DaemonOptions;
  readonly #signal: AbortSignal;
  /** What the node's lease was acquired for, and the kernel is brought in line with. */
  #setup: Setup;
  /** What the configuration says now; the lease follows, and with it the kernel. */
  #wanted: Setup;
  readonly #tables: NodeTables;
  readonly #loop: Loop;
  readonly #problems: Problems<
    'config' | 'store' | 'lease' | 'underlay' | 'plan' | 'kernel' | 'nftables' | 'daemon'
  >;
  readonly #files: NodeFiles;
  readonly #markReady = Promise.withResolvers<void>();
  #view: LeaseView | undefined;
  #synced = false;
  #isReady = false;
  readonly #own: OwnLease<Setup>;
  /** What the lease was acquired for; the next pass begins with that. */
  #granted: Setup | undefined;
  #underlay: Underlay | undefined;
  readonly #pods: PodNetwork;
  #plan: NodePlan | undefined;
  /** As the last pass that read it found it. */
  #world: World | undefined;
  /** What the kernel holds after a pass that found or put everything in its place. */
  #inKernel: Plan | undefined;
  /** What it refused to the last whole pass. */
  #refused = new Failures([], new Map());
  /** What notifications are listened to; undefined: all. */
  #interest: KernelInterest | undefined;
  #nftGeneration: number | undefined;
  readonly #counts = new PassCounts();
  readonly #beganMs = performance.now();

  constructor(options: DaemonOptions, signal: AbortSignal) {
    const { config, log, namespaceFd, randomPorts: random = true, masquerade = true } = options;
    this.#options = options;
    this.#signal = signal;
    this.#files = new NodeFiles(options);
    this.#pods = new PodNetwork(options, this.#files);
    this.#setup = setUp(config, options);
    this.#wanted = this.#setup;
    this.#problems = new Problems(log);
    this.#tables = new NodeTables({
      namespaceFd,
      layout: masqueradeLayout({ masquerade, random }),
      backend: this.#setup.backend,
      onRefused: (error) => log.warn({ error: error.message }, 'nftables refused a change; table made anew'),
    });
    this.#loop = new Loop({
      ...timingDefaults,
      ...options.timing,
      work: (dirt) => this.#work(dirt),
      onError: (error) => this.#failed(error),
    });
    this.#own = new OwnLease({
      store: options.store,
      signal,
      previous: () => this.#pods.previous(this.#setup.networks),
      onGranted: (setup: Setup) => {
        this.#granted = setup;
        this.#loop.kick('leases', 0);
      },
      onProblem: (problem) => {
        this.#problems.set('lease', problem === undefined ? [] : [problem]);
        this.#problems.log();
      },
    });
    this.ready = this.#markReady.promise;
    this.ready.catch(() => {});
    this.#pods.remember(this.#setup.networks);
  }

  network(): NodeNetwork | undefined {
    return this.#pods.current;
  }

  /**
   * Takes over a changed configuration as far as a running node can: the lease is announced anew where the others
   * must know, then one pass takes the old rows away and makes the new ones.
   */
  reconfigure(config: NetworkConfig): void {
    const own = this.#own.lease?.subnets ?? this.#pods.remembered?.subnets;
    const obstacles = configObstacles(this.#setup.config, config, own);
    this.#toldConfig(obstacles.map((what) => `the changed configuration waits for a restart: ${what}`));
    if (obstacles.length > 0 || isDeepStrictEqual(config, this.#wanted.config)) return;
    this.#wanted = setUp(config, this.#options);
    this.#options.store.useNetworks?.(config.networks);
    this.#options.log.info({ backend: config.backend.type }, 'configuration changed');
    this.#loop.kick('config', 0);
  }

  /** Of the backend's own pump, where it has one. */
  tunnelPackets(): TunnelPackets | undefined {
    return this.#tables.tunnelPackets();
  }

  status(freeAddresses: ReadonlyMap<Cidr, number>): DaemonStatus {
    const { nodeName, store } = this.#options;
    return renderStatus({
      node: nodeName,
      backend: this.#setup.config.backend.type,
      store: store.name,
      synced: this.#synced,
      ready: this.#isReady,
      lease: this.#own.lease,
      leases: this.#leases().size,
      network: this.network(),
      underlay: this.#underlay,
      peers: this.#plan?.peers ?? 0,
      refused: this.#refused.leases.size,
      freeAddresses,
      counts: this.#counts,
      storeBehindMs: this.#view?.behindMs() ?? 0,
      problems: this.#problems.all(),
    });
  }

  /** Until the signal aborts. */
  async run(): Promise<void> {
    const onChange = () => this.#loop.kick('leases', this.#leaseSettleMs());
    this.#view = this.#options.store.watch({ onChange, signal: this.#signal });
    const synced = this.#view.synced.then(
      () => {
        this.#synced = true;
        onChange();
      },
      () => {}, // stopped before
    );
    await Promise.all([synced, this.#loop.run(this.#signal), ...this.#follow()]);
    await this.#own.settled();
    this.#markReady.reject(this.#signal.reason);
  }

  /** Where a pass takes long, changes wait longer for each other: never more than a third of the time is work. */
  #leaseSettleMs(): number {
    return Math.max(leaseSettleMs, 2 * this.#counts.lastMs - this.#counts.idleMs());
  }

  #follow(): Promise<void>[] {
    const { namespaceFd, configSource } = this.#options;
    const on = { onError: (error: unknown) => this.#failed(error), signal: this.#signal };
    const onNews = () => this.#loop.kick('kernel', kernelSettleMs);
    const onBadConfig = (error: unknown) => this.#toldConfig([(error as Error).message]);
    return [
      followKernel({ ...on, namespaceFd, interest: () => this.#interest, onNews }),
      followUnheard({ ...on, plan: () => this.#inKernel, onNews }),
      poll(nftablesPollMs, () => this.#lookAtNftables(), on),
      followConfig(configSource, (config) => this.reconfigure(config), { ...on, onError: onBadConfig }),
    ];
  }

  async #lookAtNftables(): Promise<void> {
    if (this.#nftGeneration === undefined) return;
    const generation = await this.#tables.readNftGeneration();
    if (generation !== this.#nftGeneration) this.#loop.kick('nftables', 0);
  }

  #toldConfig(problems: readonly string[]): void {
    this.#problems.set('config', problems);
    this.#problems.log();
  }

  async #work(dirt: ReadonlySet<Dirt>): Promise<Outcome> {
    this.#counts.begin();
    let outcome: Outcome | undefined;
    try {
      outcome = await this.#pass(dirt);
      return outcome;
    } finally {
      this.#counts.end(outcome);
      this.#problems.set('store', this.#view?.problems() ?? []);
      this.#problems.log();
    }
  }

  async #pass(dirt: ReadonlySet<Dirt>): Promise<Outcome> {
    const [only] = dirt.size === 1 ? dirt : [];
    if (only === 'nftables' && this.#plan !== undefined) return await this.#repairNft(this.#plan, dirt);
    const followed = only === 'leases' ? await this.#followLeases(dirt) : undefined;
    return followed ?? (await this.#bringInLine(dirt));
  }

  /**
   * When nothing but leases changed, what the kernel holds is known: only what they change is written, and nothing is
   * read. Undefined when more than that is to be done.
   */
  async #followLeases(dirt: ReadonlySet<Dirt>): Promise<Outcome | undefined> {
    const [world, from] = [this.#world, this.#inKernel];
    if (world === undefined || from === undefined || this.#granted !== undefined) return undefined;
    if (!isDeepStrictEqual(world.selector, this.#selector())) return undefined;
    const self = this.#lease(world.underlay);
    if (self === undefined || this.#own.isBeingAcquired) return undefined;
    const generation = await this.#tables.readNftGeneration();
    // Somebody changed nftables, rarely our table: that is looked at next, and keeps no node waiting.
    if (generation !== this.#nftGeneration) this.#loop.kick('nftables', 0);
    this.#inKernel = undefined;
    const layers = this.#planFrom(self, world);
    const report = await advance(from, layers);
    if (report === undefined) return undefined;
    await this.#count(report, dirt, generation);
    if (!this.#refused.covers(report.failures)) return undefined;
    this.#inKernel = withoutRefused(layers, report.failures);
    return 'partial';
  }

  async #bringInLine(dirt: ReadonlySet<Dirt>): Promise<Outcome> {
    this.#inKernel = undefined;
    const selector = this.#selector();
    const links = await LinkIndex.read(this.#tables.socket);
    const facts = await readUnderlayFacts(this.#tables.socket, selector, links);
    const underlay = this.#selectUnderlay(facts, selector);
    const self = underlay && this.#lease(underlay);
    // Not one row is written before all leases are known: a restart takes nothing down.
    if (underlay === undefined || self === undefined || !this.#synced) return 'again';
    const sysctls = await this.#tables.readSysctls(underlay.device);
    this.#world = { selector, facts, underlay, sysctls };
    const layers = this.#planFrom(self, this.#world, links);
    this.#files.recordSettings(this.#plan?.sysctls ?? new Map(), sysctls);
    if (!this.#isReady) {
      await removeFlannelTwins(
        this.#tables.socket,
        links,
        this.#plan?.links.values() ?? [],
        this.#options.log,
      );
    }
    const generation = await this.#tables.readNftGeneration();
    const report = await reconcile(layers);
    await this.#count(report, dirt, generation);
    const { failures } = report;
    this.#refused = new Failures(failures, this.#leases(), self.key);
    this.#problems.set('kernel', this.#refused.texts);
    this.#problems.set('nftables', []);
    this.#problems.set('daemon', []);
    if (failures.every(letsPodsStart)) this.#pods.publish(self, this.#setup, underlay);
    if (!failures.every(isAboutPeer) || this.#own.isBeingAcquired) return 'again';
    this.#inKernel = withoutRefused(layers, failures);
    await this.#becomeReady();
    return failures.length > 0 ? 'mostly' : 'done';
  }

  async #repairNft(plan: NodePlan, dirt: ReadonlySet<Dirt>): Promise<Outcome> {
    const generation = await this.#tables.readNftGeneration();
    const report = await reconcile(this.#tables.nftLayers(plan));
    await this.#count(report, dirt, generation);
    this.#problems.set('nftables', new Failures(report.failures, new Map()).texts);
    return report.failures.length > 0 ? 'again' : 'partial';
  }

  #selector(): UnderlaySelector {
    return wishedSelector(this.#options.underlay, this.#view?.wishes?.());
  }

  #selectUnderlay(facts: UnderlayFacts, selector: UnderlaySelector): Underlay | undefined {
    const wanted = families.filter((family) => this.#setup.networks[family] !== undefined);
    const takesPart = performance.now() - this.#beganMs > wholeUnderlayMs;
    const last = this.#underlay;
    const { underlay, problem } = followUnderlay({ facts, wanted, selector, last, takesPart });
    this.#problems.set('underlay', problem === undefined ? [] : [problem]);
    if (underlay === undefined) this.#interest = undefined;
    if (underlay === undefined) return undefined;
    if (JSON.stringify(underlay) !== JSON.stringify(last)) {
      this.#options.log.info({ ...underlay }, 'underlay selected');
    }
    this.#underlay = underlay;
    return underlay;
  }

  /** This node's lease as the store has it, or as it was while the store cannot be asked. */
  #lease(underlay: Underlay): Lease | undefined {
    const view = this.#view;
    if (this.#granted !== undefined) this.#useSetup(this.#granted);
    this.#granted = undefined;
    // Before that nobody knows what its operator wishes.
    if (view?.wishes !== undefined && !this.#synced) return this.#own.lease;
    const setup = this.#wanted;
    const attributes: LeaseAttributes = {
      publicIps: announcedIps(underlay, view?.wishes?.()),
      backendType: setup.config.backend.type,
      backendData: setup.backend.data(this.#options.nodeName, underlay, this.#standing()),
    };
    if (this.#own.isHeld(attributes, view)) this.#useSetup(setup);
    else this.#own.acquire(attributes, setup);
    return this.#own.lease;
  }

  #standing(): Standing {
    const { key, backendData } = this.#own.lease ?? this.#pods.previous(this.#setup.networks);
    return { key, backendData, leases: this.#leases() };
  }

  /** Plan and lease are of one mind: what is announced is what the kernel is brought in line with. */
  #useSetup(setup: Setup): void {
    if (setup === this.#setup) return;
    this.#setup = setup;
    this.#inKernel = undefined;
    this.#tables.useBackend(setup.backend);
  }

  #planFrom(self: Lease, { facts, underlay, sysctls }: World, links?: LinkIndex): Plan {
    const leases = this.#view?.leases() ?? new Map<string, Lease>();
    const { networks, backend } = this.#setup;
    const wishes = planWishes(this.#options);
    const plan = planNode({ ...wishes, self, leases, networks, underlay, sysctls }, backend);
    this.#plan = plan;
    this.#problems.set('plan', plan.problems);
    this.#interest = kernelInterest(facts, underlay.device, plan);
    const own = families.flatMap((family) => self.subnets[family] ?? []);
    // Where we have never been, what stands in our place is flanneld's.
    const isTakeover = this.#pods.remembered === undefined && !this.#isReady;
    return this.#tables.layers(plan, own, { links, adopts: isTakeover ? 'flannel' : 'same' });
  }

  #leases(): ReadonlyMap<string, Lease> {
    return this.#view?.leases() ?? new Map();
  }

  /** `before`: nftables' generation when rows were read. */
  async #count(report: Report, dirt: ReadonlySet<Dirt>, before: number): Promise<void> {
    const now = await this.#tables.readNftGeneration();
    this.#nftGeneration = now;
    // One transaction at most is ours; with another one in between, somebody may have changed our table.
    if (now > before + Math.min(report.writes, 1)) this.#loop.kick('nftables', 0);
    const writes = report.writes - report.failures.length;
    this.#counts.wrote(writes, dirt);
    if (writes > 0) this.#options.log.info({ writes, because: [...dirt] }, 'kernel brought in line');
  }

  async #becomeReady(): Promise<void> {
    if (!(await this.#own.announceReady()) || this.#isReady) return;
    this.#isReady = true;
    this.#markReady.resolve();
    const [lease, peers] = [this.#own.lease?.key, this.#plan?.peers];
    this.#options.log.info({ lease, peers, writes: this.#counts.writes }, 'ready');
  }

  #failed(error: unknown): void {
    if (this.#signal.aborted) return;
    this.#problems.set('daemon', [(error as Error).message]);
    this.#problems.log();
  }

  [Symbol.dispose](): void {
    this.#tables[Symbol.dispose]();
  }
}
