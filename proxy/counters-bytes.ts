import { type Family, families } from '../core/address.ts';
import { reconcile } from '../core/reconcile.ts';
import { layer } from '../core/rows.ts';
import { openConntrackSocket } from '../kernel/conntrack.ts';
import { CONNTRACK_ACCOUNTING, type CountedFlow, readCountedFlows } from '../kernel/conntrack-bytes.ts';
import { openLane } from '../kernel/lane.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import { Slices } from '../kernel/nftables-slices.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import type { Views } from './backend.ts';
import type { ByteCounts } from './counters.ts';
import { protocolNumbers } from './protocol.ts';
import type { Frontend, ServicePortView } from './view.ts';

/** In the direction of the first packet, and back. */
export interface FlowBytes {
  readonly original: number;
  readonly reply: number;
}

/** Whose bytes: a port of a service in one family, and the kind of address that it was reached at. */
type Owner = string;

/**
 * Sums of the bytes that flows have moved. The kernel says what each flow has moved since it began, and nothing of
 * flows that are gone: what came since the reading before is added up.
 */
export class MovedBytes {
  readonly #sums = new Map<Owner, FlowBytes>();
  #flows = new Map<string, FlowBytes>();
  #next = new Map<string, FlowBytes>();

  /** One flow of this reading; `flow` tells it from all others. Without an owner it is only remembered. */
  add(flow: string, owner: Owner | undefined, bytes: FlowBytes): void {
    // A dump may say the same flow twice.
    const before = this.#next.get(flow) ?? this.#flows.get(flow) ?? nothing;
    this.#next.set(flow, bytes);
    if (owner === undefined) return;
    const sum = this.#sums.get(owner) ?? nothing;
    this.#sums.set(owner, {
      original: sum.original + grown(before.original, bytes.original),
      reply: sum.reply + grown(before.reply, bytes.reply),
    });
  }

  /** This reading is over: flows that were not in it are gone, and sums without an owner as well. */
  endReading(isOwner: (owner: Owner) => boolean): void {
    this.#flows = this.#next;
    this.#next = new Map();
    for (const owner of this.#sums.keys()) if (!isOwner(owner)) this.#sums.delete(owner);
  }

  sum(owner: Owner): FlowBytes | undefined {
    return this.#sums.get(owner);
  }
}

const nothing: FlowBytes = { original: 0, reply: 0 };

/** Less than before: another flow that looks like the one before. */
function grown(before: number, now: number): number {
  return now < before ? now : now - before;
}

/** From now on the kernel counts the bytes of new flows. Throws KernelError. */
export async function startAccounting(namespaceFd?: number): Promise<void> {
  const wanted = new Map([[CONNTRACK_ACCOUNTING, '1']]);
  const table = new SysctlTable({
    keys: [...wanted.keys()],
    ...(namespaceFd === undefined ? {} : { namespaceFd }),
  });
  const { failures } = await reconcile([layer(table, wanted)]);
  if (failures[0] !== undefined) throw failures[0].error;
}

/** The bytes of flows to Services, from conntrack. What flows had moved before the first reading does not count. */
export class ConntrackBytes implements ByteCounts, Disposable {
  readonly #moved = new MovedBytes();
  readonly #stack = new DisposableStack();
  readonly #socket: NetlinkSocket;
  #isFirst = true;

  /** Throws KernelError where there is no conntrack. */
  constructor({ namespaceFd }: { readonly namespaceFd?: number | undefined } = {}) {
    const lane = this.#stack.use(openLane());
    this.#socket = this.#stack.use(openConntrackSocket({ namespaceFd, lane }));
  }

  async read(views: Views): Promise<void> {
    const owners = await new Slices().run(ownersOf(views));
    const isFirst = this.#isFirst;
    const known = new Set(owners.values());
    for (const family of families) {
      await readCountedFlows(this.#socket, family, ({ flow, originalBytes, replyBytes }) => {
        const owner = isFirst ? undefined : ownerOf(flow, owners);
        this.#moved.add(flowKey(flow), owner, { original: originalBytes, reply: replyBytes });
      });
    }
    this.#moved.endReading((owner) => known.has(owner));
    this.#isFirst = false;
  }

  of(port: ServicePortView, kind: Frontend['kind']): FlowBytes | undefined {
    return this.#moved.sum(owner(port, kind));
  }

  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }
}

function owner({ name, family, protocol }: ServicePortView, kind: Frontend['kind']): Owner {
  return `${name} ${family} ${protocol} ${kind}`;
}

/** Whose a flow is, by where its first packet was sent to. */
function* ownersOf(views: Views): Generator<void, Map<string, Owner>> {
  const owners = new Map<string, Owner>();
  for (const ports of views.values()) {
    for (const port of ports) {
      for (const frontend of port.frontends) {
        const key = frontendKey(
          frontend.kind === 'nodePort' ? port.family : frontend.ip,
          protocolNumbers[port.protocol],
          frontend.port,
        );
        if (!owners.has(key)) owners.set(key, owner(port, frontend.kind));
      }
    }
    yield;
  }
  return owners;
}

/** A node port is one of its family, whatever the address. */
function frontendKey(at: string | Family, protocol: number, port: number | undefined): string {
  return `${at} ${protocol} ${port}`;
}

function ownerOf(
  { family, protocol, original: { dst, dport } }: CountedFlow['flow'],
  owners: ReadonlyMap<string, Owner>,
): Owner | undefined {
  return owners.get(frontendKey(dst, protocol, dport)) ?? owners.get(frontendKey(family, protocol, dport));
}

function flowKey({ id, zone, protocol, original }: CountedFlow['flow']): string {
  const { src, sport, dst, dport } = original;
  return `${id} ${zone} ${protocol} ${src} ${sport} ${dst} ${dport}`;
}
