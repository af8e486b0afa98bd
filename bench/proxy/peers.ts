import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Layout } from './layout.ts';
import { iptables } from './layout-iptables.ts';
import { nft130, nft136 } from './layout-nftables.ts';
import { NFT, Space } from './space.ts';
import { World } from './world.ts';

/** A tool that is given the same Services. */
export interface PeerKind {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly layout: Layout;
  /** More than so many Services take it minutes. */
  readonly mostServices: number;
  /** Only asked at these numbers of Services; undefined: at all. */
  readonly onlyAt?: readonly number[];
}

export const newLayout: PeerKind = {
  name: 'nft -f, layout of 1.36',
  program: NFT,
  args: ['-f'],
  layout: nft136,
  mostServices: 10_000,
};

export const oldLayout: PeerKind = {
  name: 'nft -f, layout of 1.30',
  program: NFT,
  args: ['-f'],
  layout: nft130,
  mostServices: 3_000,
  onlyAt: [100, 3_000],
};

export const legacyTables: PeerKind = {
  name: 'iptables-legacy-restore',
  program: '/usr/sbin/iptables-legacy-restore',
  args: ['--noflush', '-w', '5'],
  layout: iptables,
  mostServices: 10_000,
};

export const nftTables: PeerKind = {
  name: 'iptables-nft-restore',
  program: '/usr/sbin/iptables-nft-restore',
  args: ['--noflush', '-w', '5'],
  layout: iptables,
  mostServices: 1_000,
};

export const peerKinds: readonly PeerKind[] = [newLayout, oldLayout, legacyTables, nftTables];

export function isInstalled({ program }: PeerKind): boolean {
  return existsSync(program);
}

/** Whether it is to be measured with so many Services. */
export function takesPart({ mostServices, onlyAt }: PeerKind, services: number): boolean {
  return services <= mostServices && (onlyAt === undefined || onlyAt.includes(services));
}

/** The tables of one peer, in a space of their own. */
export class Peer implements Disposable {
  readonly kind: PeerKind;
  readonly space: Space;
  readonly loadMs: number;
  readonly #world: World;
  readonly #directory: string;

  private constructor(kind: PeerKind, world: World, space: Space, directory: string, loadMs: number) {
    this.kind = kind;
    this.space = space;
    this.loadMs = loadMs;
    this.#world = world;
    this.#directory = directory;
  }

  /** Gives the tool all Services of a world of this size, from a file. */
  static async load(kind: PeerKind, services: number): Promise<Peer> {
    using stack = new DisposableStack();
    const world = new World(services);
    const space = stack.use(new Space());
    const directory = stack.adopt(mkdtempSync(join(tmpdir(), 'fairlead-bench-')), remove);
    const file = write(directory, kind.layout.load(world.services()));
    const startMs = performance.now();
    await space.run([kind.program, ...kind.args, file]);
    const loadMs = performance.now() - startMs;
    stack.move();
    return new Peer(kind, world, space, directory, loadMs);
  }

  /** Changes one endpoint of each of so many Services, one after the other; how long each took, in milliseconds. */
  async change(count: number): Promise<number[]> {
    const { program, args, layout } = this.kind;
    const times: number[] = [];
    for (let round = 0; round < count; round += 1) {
      const { before, after } = this.#world.replaceEndpoint();
      const file = write(this.#directory, layout.change(before, after, this.#world.services()));
      const startMs = performance.now();
      await this.space.run([program, ...args, file]);
      times.push(performance.now() - startMs);
    }
    return times;
  }

  [Symbol.dispose](): void {
    this.space[Symbol.dispose]();
    remove(this.#directory);
  }
}

function write(directory: string, lines: Iterable<string>): string {
  const file = join(directory, 'input');
  writeFileSync(file, `${[...lines].join('\n')}\n`);
  return file;
}

function remove(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
}
