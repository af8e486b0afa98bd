import { type Frame, interleave } from '../frame.ts';
import { isInstalled, legacyTables, nftTables, Peer, type PeerKind } from './peers.ts';
import { changeNames } from './sizes.ts';
import { Space } from './space.ts';
import { type SubjectBackend, SubjectProcess } from './subject-process.ts';
import { ENDPOINTS_EACH } from './world.ts';

const SERVICES = 1_000;
const ROUNDS = 3;
const CHANGES = 20;

/** Each kind of iptables, as the proxy writes it and as its own program is given all rules at once. */
const kinds: readonly (readonly [SubjectBackend, PeerKind])[] = [
  ['iptables-nft', nftTables],
  ['iptables-legacy', legacyTables],
];

/** The proxy's mode iptables: figures without a target, for it is there for hosts that have nothing else. */
export async function measureIptables(frame: Frame): Promise<void> {
  const services = frame.quick ? 100 : SERVICES;
  for (const [backend, kind] of kinds) {
    // That it is missing has been said.
    if (!isInstalled(kind)) continue;
    frame.progress(`${backend}, ${services} × ${ENDPOINTS_EACH}`);
    await measureKind(frame, services, backend, kind);
  }
}

async function measureKind(
  frame: Frame,
  services: number,
  backend: SubjectBackend,
  kind: PeerKind,
): Promise<void> {
  const name = `${services.toLocaleString('en')} × ${ENDPOINTS_EACH}, mode ${backend}`;
  let ours: Started | undefined;
  let peer: Peer | undefined;
  try {
    const loads = await interleave(frame.quick ? 1 : ROUNDS, {
      ours: async () => {
        await ours?.[Symbol.asyncDispose]();
        ours = await Started.open(services, backend);
        return [ours.coldStartMs];
      },
      restore: async () => {
        peer?.[Symbol.dispose]();
        peer = await Peer.load(kind, services);
        return [peer.loadMs];
      },
    });
    frame.samples(`${name}: cold start`, loads.ours);
    frame.samples(`${name}: all by ${kind.name}`, loads.restore);
    frame.ratio(`${name}: all by ${kind.name} / cold start`, loads.restore, loads.ours);
    if (ours === undefined || peer === undefined) return;
    await measureChanges(frame, name, ours, peer, loads.restore);
  } finally {
    await ours?.[Symbol.asyncDispose]();
    peer?.[Symbol.dispose]();
  }
}

async function measureChanges(
  frame: Frame,
  name: string,
  ours: Started,
  peer: Peer,
  allMs: readonly (readonly number[])[],
): Promise<void> {
  const count = frame.quick ? 3 : CHANGES;
  const cpuMs: number[][] = [];
  const changes = await interleave(frame.quick ? 1 : ROUNDS, {
    ours: async () => {
      const { latenciesMs, cpuMs: its } = await ours.subject.change('endpoint', count);
      cpuMs.push([its]);
      return latenciesMs;
    },
    restore: () => peer.change(frame.quick ? 1 : 3),
  });
  const what = `${name}: ${changeNames.endpoint}`;
  frame.samples(what, changes.ours);
  frame.samples(`${what}, CPU of the proxy without its programs`, cpuMs);
  frame.samples(`${what} by ${peer.kind.name}`, changes.restore);
  frame.ratio(`${what} by ${peer.kind.name} / ours`, changes.restore, changes.ours);
  frame.ratio(`${name}: all by ${peer.kind.name} / one endpoint by ours`, allMs, changes.ours);
}

/** A proxy that has written everything, in a space of its own. */
class Started implements AsyncDisposable {
  readonly subject: SubjectProcess;
  readonly coldStartMs: number;
  readonly #space: Space;

  private constructor(space: Space, subject: SubjectProcess, coldStartMs: number) {
    this.#space = space;
    this.subject = subject;
    this.coldStartMs = coldStartMs;
  }

  static async open(services: number, backend: SubjectBackend): Promise<Started> {
    const space = new Space();
    try {
      const subject = await SubjectProcess.start(space, services, { backend });
      return new Started(space, subject, subject.started.coldStartMs);
    } catch (error) {
      space[Symbol.dispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.subject[Symbol.asyncDispose]();
    this.#space[Symbol.dispose]();
  }
}
