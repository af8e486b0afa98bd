import { setTimeout as sleep } from 'node:timers/promises';
import { type Cidr, cidrsOverlap, families, type Ip, ipOf } from '../core/address.ts';
import { type NetworkConfig, parseNetworkConfig } from './config.ts';
import type { EtcdClient, EtcdEntry } from './etcd.ts';
import { parseLease, parseSubnetKey, renderLeaseValue, subnetKey } from './etcd-record.ts';
import { renewEtcdLease } from './etcd-renewal.ts';
import { EtcdLeaseView } from './etcd-view.ts';
import {
  type AcquireOptions,
  canonicalJson,
  type Lease,
  type LeaseAttributes,
  type LeaseStore,
  type LeaseView,
  type PerFamily,
  StoreError,
  sameAttributes,
} from './lease.ts';
import { freeSubnets, isNodeSubnet } from './subnets.ts';

export const etcdDefaults = Object.freeze({
  prefix: '/coreos.com/network',
  ttlSeconds: 86_400,
  renewMarginSeconds: 3_600,
});

/** As many nodes may ask for their first subnet in the same moment. */
const raceTries = 100;
/** Wait at random up to this after the first lost race; up to twice as long after the next, and so on. */
const raceWaitMs = 50;
const longestRaceWaitMs = 2_000;
/** A subnet is drawn from so many free ones (flannel: 100), so that nodes that start together seldom want the same. */
const candidateLimit = 1_000;

export interface EtcdStoreOptions {
  readonly client: EtcdClient;
  readonly networks: NetworkConfig['networks'];
  readonly prefix?: string;
  /** Life of a lease without its node, and how long before its end it is renewed. */
  readonly ttlSeconds?: number;
  readonly renewMarginSeconds?: number;
  /** How often a watch that says nothing is looked after. */
  readonly probeMs?: number;
  /** From 0 up to, not including, 1. */
  readonly random?: () => number;
}

interface HeldLease {
  readonly key: string;
  /** "0" for a reservation, which an operator made to last. */
  readonly etcdLease: string;
  readonly ttlSeconds: number;
}

/** Reads `<prefix>/config`. Throws InputError for a bad one, StoreError when there is none. */
export async function readEtcdNetworkConfig(
  client: EtcdClient,
  prefix: string,
  signal: AbortSignal,
): Promise<NetworkConfig> {
  const text = await client.get(`${prefix}/config`, signal);
  if (text === undefined) throw new StoreError(`etcd: the key ${prefix}/config does not exist`);
  return parseNetworkConfig(text, `etcd ${prefix}/config`);
}

/**
 * Leases in etcd v3 in flannel's format, each key bound to an etcd lease that its node renews.
 *
 * A subnet is given by one transaction that fails when another lease begins where this one does. That alone lets
 * many nodes have subnets at once; keys that begin otherwise may still overlap, so all are read again, and of two
 * the later one is given back. Nobody has a pod there yet.
 */
export class EtcdLeaseStore implements LeaseStore {
  readonly name = 'etcd';
  readonly #client: EtcdClient;
  #networks: NetworkConfig['networks'];
  readonly #prefix: string;
  readonly #ttlSeconds: number;
  readonly #marginSeconds: number;
  readonly #probeMs: number | undefined;
  readonly #random: () => number;
  #held: HeldLease | undefined;
  #renewal: AbortController | undefined;
  #renewalProblem: string | undefined;

  constructor(options: EtcdStoreOptions) {
    this.#client = options.client;
    this.#networks = options.networks;
    this.#prefix = `${options.prefix ?? etcdDefaults.prefix}/subnets/`;
    this.#ttlSeconds = options.ttlSeconds ?? etcdDefaults.ttlSeconds;
    this.#marginSeconds = options.renewMarginSeconds ?? etcdDefaults.renewMarginSeconds;
    this.#probeMs = options.probeMs;
    this.#random = options.random ?? Math.random;
  }

  watch({ onChange, signal }: { onChange: () => void; signal: AbortSignal }): LeaseView {
    const view = new EtcdLeaseView(this.#client, this.#prefix, {
      onChange,
      signal,
      probeMs: this.#probeMs,
    });
    const problems = () => [...view.problems(), ...(this.#renewalProblem ? [this.#renewalProblem] : [])];
    return { synced: view.synced, leases: () => view.leases(), problems, behindMs: () => view.behindMs() };
  }

  useNetworks(networks: NetworkConfig['networks']): void {
    this.#networks = networks;
  }

  async acquire(attributes: LeaseAttributes, options: AcquireOptions): Promise<Lease> {
    const { signal } = options;
    let fresh: string | undefined; // one etcd lease for all tries
    const grant = async () => {
      fresh ??= await this.#client.grant(this.#ttlSeconds, signal);
      return fresh;
    };
    for (let tries = 0; tries < raceTries; tries += 1) {
      const held = await this.#claim(attributes, options, grant);
      if (held !== undefined) {
        this.#hold(held, signal);
        return { ...attributes, key: held.key, subnets: parseSubnetKey(held.key) ?? {} };
      }
      const waitMs = Math.min(raceWaitMs * 2 ** tries, longestRaceWaitMs);
      await sleep(this.#random() * waitMs, undefined, { signal });
    }
    throw new StoreError(`etcd: another node was quicker ${raceTries} times`);
  }

  /** One try: undefined when something changed meanwhile. */
  async #claim(
    attributes: LeaseAttributes,
    options: AcquireOptions,
    grant: () => Promise<string>,
  ): Promise<HeldLease | undefined> {
    const { previous, signal } = options;
    const { entries, revision } = await this.#client.range(this.#prefix, signal);
    const own = this.#findOwn(entries, attributes, options);
    if (own !== undefined && this.#fits(own.lease)) {
      return await this.#keep(own.entry, own.lease, attributes, grant, signal);
    }
    const others = entries.filter((entry) => entry !== own?.entry);
    const taken = others.flatMap(({ key }) => Object.values(this.#subnetsOf(key) ?? {}));
    const key = subnetKey(this.#choose(taken, { ...previous, ...own?.lease.subnets }));
    const etcdLease = await grant();
    const put = { put: this.#prefix + key, value: renderLeaseValue(attributes), etcdLease };
    // A lease that does not fit any more goes in the moment when the new one comes.
    const writes = own === undefined ? [put] : [{ delete: own.entry.key }, put];
    const whole = { prefix: this.#prefix, changedAtMost: revision };
    const condition = own === undefined ? { prefix: this.#prefix + startOf(key), changedAtMost: 0 } : whole;
    if (!(await this.#client.transact([condition], writes, signal))) return undefined;
    if (condition !== whole && (await this.#isTaken(key, signal))) {
      await this.#client.transact([], [{ delete: this.#prefix + key }], signal);
      return undefined;
    }
    return { key, etcdLease, ttlSeconds: this.#ttlSeconds };
  }

  /** Whether an earlier lease overlaps that was made in the same moment under a key that begins otherwise. */
  async #isTaken(key: string, signal: AbortSignal): Promise<boolean> {
    const { entries } = await this.#client.range(this.#prefix, signal);
    const own = entries.find((entry) => entry.key === this.#prefix + key);
    const subnets = Object.values(parseSubnetKey(key) ?? {});
    return entries.some(
      (entry) =>
        own !== undefined &&
        entry.createRevision < own.createRevision &&
        Object.values(this.#subnetsOf(entry.key) ?? {}).some((other) =>
          subnets.some((subnet) => cidrsOverlap(subnet, other)),
        ),
    );
  }

  /** The lease that is there stays, with its etcd lease; a reservation stays one. */
  async #keep(
    entry: EtcdEntry,
    lease: Lease,
    attributes: LeaseAttributes,
    grant: () => Promise<string>,
    signal: AbortSignal,
  ): Promise<HeldLease | undefined> {
    let { etcdLease } = entry;
    let ttlSeconds = etcdLease === '0' ? 0 : await this.#client.keepAlive(etcdLease, signal);
    const ranOut = etcdLease !== '0' && ttlSeconds === 0;
    if (ranOut) {
      etcdLease = await grant();
      ttlSeconds = this.#ttlSeconds;
    }
    const held = { key: lease.key, etcdLease, ttlSeconds };
    if (!ranOut && sameAttributes(lease, attributes)) return held;
    const done = await this.#client.transact(
      [{ key: entry.key, modRevision: entry.modRevision }],
      [{ put: entry.key, value: renderLeaseValue(attributes), etcdLease }],
      signal,
    );
    return done ? held : undefined;
  }

  /**
   * By the etcd lease we hold, else by our last subnets where the rest of the lease is ours as well: so a node that was
   * away and comes back with another address has them again. Else by our public addresses, as flannel does.
   */
  #findOwn(entries: EtcdEntry[], attributes: LeaseAttributes, { previous, announced }: AcquireOptions) {
    const known = entries.flatMap((entry) => {
      const lease = parseLease(entry.key.slice(this.#prefix.length), entry.value);
      return 'problem' in lease ? [] : [{ entry, lease }];
    });
    const previousKey = previous === undefined ? undefined : subnetKey(previous);
    const held = this.#held;
    return (
      known.find(({ entry, lease }) => lease.key === held?.key && entry.etcdLease === held.etcdLease) ??
      known.find(({ lease }) => lease.key === previousKey && wasOurs(lease, attributes, announced)) ??
      known.find(({ lease }) => hasSameAddresses(lease, attributes))
    );
  }

  #fits(lease: Lease): boolean {
    return families.every((family) => {
      const range = this.#networks[family];
      const subnet = lease.subnets[family];
      if (range === undefined || subnet === undefined) return range === subnet;
      return isNodeSubnet(range, subnet);
    });
  }

  #choose(taken: Cidr[], previous: PerFamily<Cidr> | undefined): PerFamily<Cidr> {
    const chosen: { 4?: Cidr; 6?: Cidr } = {};
    for (const family of families) {
      const range = this.#networks[family];
      if (range === undefined) continue;
      const last = previous?.[family];
      const only = last !== undefined && isNodeSubnet(range, last) ? singleSubnet(range, last) : undefined;
      const again = only === undefined ? [] : freeSubnets(only, taken, 1);
      const free = again.length > 0 ? again : freeSubnets(range, taken, candidateLimit);
      const subnet = free[Math.floor(this.#random() * free.length)];
      if (subnet === undefined)
        throw new StoreError(`etcd: no /${range.subnetLength} is free in ${range.network}`);
      chosen[family] = subnet;
    }
    return chosen;
  }

  #subnetsOf(key: string): PerFamily<Cidr> | undefined {
    return parseSubnetKey(key.slice(this.#prefix.length));
  }

  #hold(held: HeldLease, signal: AbortSignal): void {
    const same = this.#held?.key === held.key && this.#held.etcdLease === held.etcdLease;
    this.#held = held;
    if (same) return;
    this.#renewalProblem = undefined;
    this.#renewal?.abort();
    this.#renewal = new AbortController();
    if (held.etcdLease === '0') return;
    renewEtcdLease({
      client: this.#client,
      key: this.#prefix + held.key,
      etcdLease: held.etcdLease,
      ttlSeconds: held.ttlSeconds,
      marginSeconds: this.#marginSeconds,
      onProblem: (problem) => {
        this.#renewalProblem = problem;
      },
      signal: AbortSignal.any([signal, this.#renewal.signal]),
    }).catch(() => {}); // rejects only when aborted
  }
}

function singleSubnet(range: { network: Cidr; subnetLength: number }, subnet: Cidr) {
  const ip = ipOf(subnet);
  return { ...range, subnetMin: ip, subnetMax: ip };
}

/** What keys of the same subnet, whatever its length, begin with; of two families the IPv4 one decides. */
function startOf(key: string): string {
  const end = key.startsWith('0.0.0.0-0&') ? key.lastIndexOf('-') : key.indexOf('-');
  return key.slice(0, end + 1);
}

/** In every family that both have; one of them may have been of one family only when it was written. */
function hasSameAddresses(lease: Lease, { publicIps }: Pick<LeaseAttributes, 'publicIps'>): boolean {
  const both = families.filter((family) => lease.publicIps[family] && publicIps[family]);
  return both.length > 0 && both.every((family) => lease.publicIps[family] === publicIps[family]);
}

/** By our tunnel end; where the backend has none that a node is known by, by what we announced last. */
function wasOurs(lease: Lease, attributes: LeaseAttributes, announced: PerFamily<Ip> | undefined): boolean {
  const [then, now] = [tunnelEnds(lease), tunnelEnds(attributes)];
  if (then.length > 0 && now.length > 0) return then.some((end) => now.includes(end));
  return announced !== undefined && hasSameAddresses(lease, { publicIps: announced });
}

function tunnelEnds({ backendData }: LeaseAttributes): string[] {
  return families.flatMap((family) => {
    const data = canonicalJson(backendData[family]);
    return data === 'null' ? [] : [`${family} ${data}`];
  });
}
