import type { Frame, Target } from '../frame.ts';
import { interleave } from '../frame.ts';
import { isInstalled, newLayout, oldLayout, Peer, type PeerKind, peerKinds, takesPart } from './peers.ts';
import { memoryAccount, Space } from './space.ts';
import { type ChangeKind, SubjectProcess } from './subject-process.ts';
import { ENDPOINTS_EACH } from './world.ts';

/** The size that most targets are for. */
export const FULL_SIZE = 10_000;
/** The size that the layout of 1.30 is measured at: more would take it minutes. */
export const OLD_LAYOUT_SIZE = 3_000;
/** A peer that took longer than this is not asked to load everything again. */
const SLOW_MS = 5_000;
const CHANGES_BY_TOOL = 3;

const changeKinds: readonly ChangeKind[] = ['endpoint', 'add', 'remove'];
export const changeNames: Readonly<Record<ChangeKind, string>> = {
  endpoint: 'one endpoint changed',
  add: 'one Service added',
  remove: 'one Service removed',
};

/** One number of Services: our proxy and its peers, each with its tables in a space of its own. */
export class Size implements AsyncDisposable {
  readonly services: number;
  readonly #frame: Frame;
  #ours: { readonly space: Space; readonly subject: SubjectProcess } | undefined;
  readonly #peers = new Map<string, Peer>();
  readonly #changes = new Map<ChangeKind, { latenciesMs: number[][]; cpuMs: number[] }>();
  readonly #peerChanges = new Map<string, number[][]>();

  constructor(frame: Frame, services: number) {
    this.#frame = frame;
    this.services = services;
  }

  get name(): string {
    return `${this.services.toLocaleString('en')} × ${ENDPOINTS_EACH}`;
  }

  /** The target, where this is the size that it is for. */
  #target(target: Target, size = FULL_SIZE): { readonly target?: Target } {
    return this.services === size ? { target } : {};
  }

  get ours(): { readonly space: Space; readonly subject: SubjectProcess } {
    if (this.#ours === undefined) throw new Error(`${this.name}: nothing was loaded`);
    return this.#ours;
  }

  peer({ name }: PeerKind): Peer | undefined {
    return this.#peers.get(name);
  }

  latenciesMs(kind: ChangeKind): readonly (readonly number[])[] {
    return this.#changes.get(kind)?.latenciesMs ?? [];
  }

  /** Loads everything on all sides in turns; what was loaded last stays. */
  async load(): Promise<void> {
    const frame = this.#frame;
    const rounds = frame.quick ? 1 : 5;
    const programming: number[] = [];
    const sides: Record<string, () => Promise<number[]>> = {
      ours: async () => {
        const { coldStartMs, programmingMs } = await this.#start();
        programming.push(programmingMs);
        return [coldStartMs];
      },
    };
    for (const kind of peerKinds) {
      if (isInstalled(kind) && takesPart(kind, this.services)) sides[kind.name] = () => this.#loadPeer(kind);
    }
    const { ours = [], ...peers } = await interleave(rounds, sides);
    frame.samples(`${this.name}: cold start`, ours, this.#target({ atMost: 1_000 }));
    frame.samples(
      `${this.name}: cold start, programming`,
      programming.map((ms) => [ms]),
      this.#target({ atMost: 300 }),
    );
    for (const [name, times] of Object.entries(peers)) {
      frame.samples(`${this.name}: load by ${name}`, times);
      const target =
        name === newLayout.name
          ? this.#target({ atLeast: 10 })
          : name === oldLayout.name
            ? this.#target({ atLeast: 50 }, OLD_LAYOUT_SIZE)
            : {};
      frame.ratio(`${this.name}: load by ${name} / cold start`, times, ours, target);
    }
  }

  async #start() {
    await this.#ours?.subject[Symbol.asyncDispose]();
    this.#ours?.space[Symbol.dispose]();
    const space = new Space();
    this.#ours = undefined;
    try {
      const subject = await SubjectProcess.start(space, this.services);
      this.#ours = { space, subject };
      return subject.started;
    } catch (error) {
      space[Symbol.dispose]();
      throw error;
    }
  }

  /** How long it took; what takes very long is done once, and the other rounds get the same number. */
  async #loadPeer(kind: PeerKind): Promise<number[]> {
    const before = this.#peers.get(kind.name);
    if (before !== undefined && before.loadMs > SLOW_MS) return [before.loadMs];
    this.#frame.progress(`${this.name}: ${kind.name}`);
    const peer = await Peer.load(kind, this.services);
    before?.[Symbol.dispose]();
    this.#peers.set(kind.name, peer);
    return [peer.loadMs];
  }

  /** One round of changes of ours and of all peers. */
  async change(): Promise<void> {
    const count = this.#frame.quick ? 20 : 200;
    for (const kind of changeKinds) {
      const { latenciesMs, cpuMs } = await this.ours.subject.change(kind, count);
      const known = this.#changes.get(kind) ?? { latenciesMs: [], cpuMs: [] };
      known.latenciesMs.push([...latenciesMs]);
      known.cpuMs.push(cpuMs);
      this.#changes.set(kind, known);
    }
    for (const peer of this.#peers.values()) {
      const { name } = peer.kind;
      const known = this.#peerChanges.get(name) ?? [];
      known.push(await peer.change(CHANGES_BY_TOOL));
      this.#peerChanges.set(name, known);
    }
  }

  reportChanges(): void {
    const frame = this.#frame;
    for (const [kind, { latenciesMs, cpuMs }] of this.#changes) {
      const name = `${this.name}: ${changeNames[kind]}`;
      const isAimed = kind === 'endpoint';
      const { p99 } = frame.samples(name, latenciesMs, isAimed ? this.#target({ atMost: 0.5 }) : {});
      if (isAimed) frame.figure(`${name}, p99`, p99, 'ms', this.#target({ atMost: 3 }).target);
      frame.samples(
        `${name}, CPU`,
        cpuMs.map((ms) => [ms]),
      );
    }
    for (const [name, times] of this.#peerChanges) {
      frame.samples(`${this.name}: ${changeNames.endpoint} by ${name}`, times);
      const target = name === newLayout.name ? this.#target({ atLeast: 100 }) : {};
      const ours = this.latenciesMs('endpoint');
      frame.ratio(`${this.name}: ${changeNames.endpoint} by ${name} / ours`, times, ours, target);
    }
  }

  /** Ends everything but counts before what the kernel held. */
  async reportMemory(): Promise<void> {
    const frame = this.#frame;
    const { space, subject } = this.ours;
    const { residentBytes, peakBytes } = await subject.memory();
    const target = this.#target({ atMost: 300 }).target;
    frame.figure(`${this.name}: resident memory`, residentBytes / 1e6, 'MB', target);
    frame.figure(`${this.name}: resident memory, peak`, peakBytes / 1e6, 'MB');
    await subject[Symbol.asyncDispose]();
    const kernelTarget = this.#target({ atMost: 20 }).target;
    const name = `${this.name}: kernel memory by ${memoryAccount}`;
    frame.figure(name, (await space.removeAndMeasure()) / 1e6, 'MB', kernelTarget);
    for (const { kind, space: other } of this.#peers.values()) {
      const bytes = await other.removeAndMeasure();
      frame.figure(`${name}, ${kind.name}`, bytes / 1e6, 'MB');
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const peer of this.#peers.values()) peer[Symbol.dispose]();
    await this.#ours?.subject[Symbol.asyncDispose]();
    this.#ours?.space[Symbol.dispose]();
  }
}
