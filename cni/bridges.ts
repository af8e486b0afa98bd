import type { HostCidr } from '../core/address.ts';
import { isOurs } from '../kernel/linkindex.ts';
import { IFF_UP, type Link } from '../kernel/netlink/route/link.ts';
import { type BridgeWish, IFF_PROMISC, type MadeBridge, type SeenBridge } from './bridge.ts';
import type { BridgeNeed } from './part.ts';
import type { BridgeNeeds, VlanGateway } from './types/bridge.ts';

/** What one network needs; most need no more than the first half. */
export type Need = BridgeNeed & Partial<BridgeNeeds>;

export interface BridgesOptions {
  /** Makes one bridge what is wished of it. Throws CniError. */
  readonly make: (wish: BridgeWish) => Promise<MadeBridge>;
  /** Makes the host's own end in a VLAN; nothing when it is there. Throws CniError. */
  readonly makeGateway: (gateway: VlanGateway) => Promise<void>;
  /** What pods on the bridge still need, whatever the configuration says now. */
  readonly needsOf: (bridge: string) => Iterable<Need>;
}

/** A gateway that was asked for stays so long, though no pod is recorded with it yet. */
export const gatewayHoldMs = 60_000;

interface Known {
  /** What it was made with. */
  mtuBytes: number | undefined;
  /** When each was asked for. */
  readonly mtus: Map<number, number>;
  /** When each was asked for. */
  readonly gateways: Map<HostCidr, number>;
  /** Wanted by now. */
  wanted: ReadonlySet<HostCidr>;
  promiscuous: boolean;
  readonly vlanGateways: Map<string, VlanGateway>;
  /** Undefined: it is not, as far as we know. */
  ready: Promise<void> | true | undefined;
  link: Link | undefined;
  /** Of the last time that it was looked at. */
  writes: number;
}

/** The bridges of this node: each is made when it is first needed, and again when it is not as it must be. */
export class Bridges {
  readonly #options: BridgesOptions;
  readonly #known = new Map<string, Known>();
  #nodeNeed: Need | undefined;

  constructor(options: BridgesOptions) {
    this.#options = options;
  }

  names(): Iterable<string> {
    return this.#known.keys();
  }

  /** True at once when the bridge is known to be there; else when it is. Throws CniError. */
  ensure(need: Need): true | Promise<void> {
    const known = this.#known.get(need.bridge) ?? emptyKnown();
    const isCovered = known.ready !== undefined && covers(known, need);
    hold(known, need);
    if (isCovered && known.ready !== undefined) return known.ready;
    known.mtuBytes = lesser(known.mtuBytes, need.mtuBytes);
    this.#known.set(need.bridge, known);
    return this.#ensureAnew(need, known);
  }

  async #ensureAnew(need: Need, known: Known): Promise<void> {
    try {
      await this.#begin(need.bridge, known, need.addressConflict ?? 'keep');
    } catch (error) {
      // What could not be is not wanted by the next one.
      for (const gateway of need.gateways) known.gateways.delete(gateway);
      if (need.mtuBytes !== undefined) known.mtus.delete(need.mtuBytes);
      if (need.vlanGateway !== undefined) known.vlanGateways.delete(need.vlanGateway.device);
      const isUsed = !this.#needs(need.bridge).next().done;
      if (!isUsed && this.#known.get(need.bridge) === known) this.#known.delete(need.bridge);
      throw error;
    }
  }

  /** The node's own bridge is there before the first pod. */
  async keep(need: Need): Promise<void> {
    const before = this.#nodeNeed;
    this.#nodeNeed = need;
    // What was asked for before is so no longer, though it is not long ago.
    if (before?.mtuBytes !== undefined && before.mtuBytes !== need.mtuBytes) {
      this.#known.get(before.bridge)?.mtus.delete(before.mtuBytes);
    }
    await this.ensure(need);
    if (before?.bridge === need.bridge && before.mtuBytes !== need.mtuBytes) await this.repair(need.bridge);
  }

  /** The bridge turned out to be gone. */
  forget(bridge: string): void {
    const known = this.#known.get(bridge);
    if (known !== undefined) known.ready = undefined;
  }

  /** Its address on the link; undefined when it follows its ports'. */
  macOf(bridge: string): Link['mac'] {
    return this.#known.get(bridge)?.link?.mac;
  }

  /** The link's number; undefined while it is not known to stand. */
  indexOf(bridge: string): number | undefined {
    const known = this.#known.get(bridge);
    return known?.ready === true ? known.link?.index : undefined;
  }

  /** Looks whether the bridge is as it must be; gives the number of rows that were written. Throws CniError. */
  async repair(bridge: string): Promise<number> {
    const known = this.#known.get(bridge);
    if (known === undefined) return 0;
    await this.#begin(bridge, known, 'keep');
    return known.writes;
  }

  #begin(bridge: string, known: Known, conflict: BridgeWish['addressConflict']): Promise<void> {
    const making = this.#make(bridge, known, conflict, known.ready);
    known.ready = making;
    const settle = (ready: true | undefined) => {
      if (known.ready === making) known.ready = ready;
    };
    making.then(
      () => settle(true),
      () => settle(undefined),
    );
    return making;
  }

  async #make(
    bridge: string,
    known: Known,
    addressConflict: BridgeWish['addressConflict'],
    earlier: Known['ready'],
  ): Promise<void> {
    await Promise.resolve(earlier).catch(() => {});
    const wish = { ...this.#wish(bridge, known), addressConflict };
    const { link, writes } = await this.#options.make(wish);
    known.wanted = new Set(wish.gateways);
    known.link = link;
    known.writes = writes;
    for (const gateway of known.vlanGateways.values()) await this.#options.makeGateway(gateway);
  }

  #wish(name: string, known: Known): Omit<BridgeWish, 'addressConflict'> {
    const oldestMs = performance.now() - gatewayHoldMs;
    for (const held of [known.gateways, known.mtus] as const) dropBefore<unknown>(held, oldestMs);
    const needs = [...this.#needs(name)];
    for (const { vlanGateway } of needs) {
      if (vlanGateway !== undefined) known.vlanGateways.set(vlanGateway.device, vlanGateway);
    }
    const gateways = new Set([...needs.flatMap((need) => need.gateways), ...known.gateways.keys()]);
    known.mtuBytes = leastMtu(needs, known);
    const { mtuBytes } = known;
    known.promiscuous ||= needs.some((need) => need.promiscuous);
    return { name, mtuBytes, gateways: [...gateways], promiscuous: known.promiscuous };
  }

  *#needs(bridge: string): Generator<Need> {
    if (this.#nodeNeed?.bridge === bridge) yield this.#nodeNeed;
    yield* this.#options.needsOf(bridge);
  }

  /** Whether a bridge that was made stands as it was made; undefined while it is being made. */
  isSound(bridge: string, { link, addresses }: SeenBridge): boolean | undefined {
    const known = this.#known.get(bridge);
    if (known === undefined || known.ready instanceof Promise) return undefined;
    const isSound = this.#stands(known, { link, addresses });
    if (isSound || this.#isNeeded(bridge, known)) return isSound;
    // Nobody needs it now; the next one who does will have it made.
    known.ready = undefined;
    return undefined;
  }

  #isNeeded(bridge: string, { gateways }: Known): boolean {
    const heldSinceMs = performance.now() - gatewayHoldMs;
    return !this.#needs(bridge).next().done || [...gateways.values()].some((atMs) => atMs > heldSinceMs);
  }

  #stands(known: Known, { link, addresses }: SeenBridge): boolean {
    if (known.ready === undefined || known.link === undefined || link === undefined) return false;
    const there = new Set(addresses);
    for (const gateway of known.wanted) if (!there.has(gateway)) return false;
    return !isOther(known, known.link, link);
  }
}

function emptyKnown(): Known {
  return {
    mtuBytes: undefined,
    mtus: new Map(),
    gateways: new Map(),
    wanted: new Set(),
    promiscuous: false,
    vlanGateways: new Map(),
    ready: undefined,
    link: undefined,
    writes: 0,
  };
}

/** As the kernel does where nobody says anything: a packet that the bridge lets through fits every port. */
function leastMtu(needs: readonly Need[], { mtuBytes, mtus }: Known): number | undefined {
  const asked = [...needs.flatMap((need) => need.mtuBytes ?? []), ...mtus.keys()];
  return asked.length === 0 ? mtuBytes : asked.reduce((least, one) => Math.min(least, one));
}

function lesser(one: number | undefined, other: number | undefined): number | undefined {
  if (one === undefined || other === undefined) return one ?? other;
  return Math.min(one, other);
}

function dropBefore<K>(times: Map<K, number>, oldestMs: number): void {
  for (const [key, atMs] of times) if (atMs < oldestMs) times.delete(key);
}

function covers(known: Known, { gateways, mtuBytes, promiscuous = false, vlanGateway }: Need): boolean {
  return (
    (mtuBytes === undefined || (known.mtuBytes ?? Number.POSITIVE_INFINITY) <= mtuBytes) &&
    gateways.every((gateway) => known.wanted.has(gateway) || known.gateways.has(gateway)) &&
    (!promiscuous || known.promiscuous) &&
    (vlanGateway === undefined || known.vlanGateways.has(vlanGateway.device))
  );
}

function hold(known: Known, { gateways, mtuBytes, promiscuous = false, vlanGateway }: Need): void {
  const nowMs = performance.now();
  if (mtuBytes !== undefined) known.mtus.set(mtuBytes, nowMs);
  for (const gateway of gateways) known.gateways.set(gateway, nowMs);
  known.promiscuous ||= promiscuous;
  if (vlanGateway !== undefined) known.vlanGateways.set(vlanGateway.device, vlanGateway);
}

function isOther({ wanted, promiscuous }: Known, made: Link, link: Link): boolean {
  const { flags = 0, index, mtuBytes, mac, alias } = link;
  const mustHave = promiscuous ? IFF_UP | IFF_PROMISC : IFF_UP;
  if ((flags & mustHave) !== mustHave || alias !== made.alias) return true;
  // Without gateways it has the address of its lowest port, and the MTU of the smallest; another's MTU is his matter.
  const isOtherMtu = isOurs(made) && mtuBytes !== made.mtuBytes;
  return index !== made.index || (wanted.size > 0 && (mac !== made.mac || isOtherMtu));
}
