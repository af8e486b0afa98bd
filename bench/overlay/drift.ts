import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { AddressTable } from '../../kernel/address.ts';
import { LinkTable } from '../../kernel/link.ts';
import { FdbTable, NeighborTable } from '../../kernel/neighbor.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { RouteTable } from '../../kernel/route.ts';
import { inside } from '../../test/netns/daemon-nodes.ts';
import type { Frame, Target } from '../frame.ts';
import { agentsPair, type Pair } from './pair.ts';

const repairTarget: Target = { atMost: 1_000 };
const program = '/usr/bin/ping';
const nft = '/usr/sbin/nft';
const pingEveryMs = 10;
const lookEveryMs = 2;
/** Pings before something is broken. */
const leadMs = 300;
const repairWithinMs = 10_000;

/** What somebody may do to a node, one line of a shell each. */
const breaks = [
  'ip route flush proto 88',
  'ip neigh flush dev fl.1 nud permanent',
  'bridge fdb flush dev fl.1 self',
  'ip addr flush dev fl.1',
  'ip link set fl.1 down',
  'ip link del fl.1',
  `${nft} flush ruleset`,
];

/** How soon what somebody broke is whole again, and how many packets between pods are lost meanwhile. */
export async function measureDrift(frame: Frame): Promise<void> {
  const hasPing = existsSync(program);
  if (!hasPing) frame.missing('ping', `no ${program} (Debian: iputils-ping)`);
  const rounds = frame.quick ? 1 : 5;
  await using pair = await agentsPair('vxlan');
  using look = new Look(pair.machines[0].namespace);
  await settle();
  const whole = await look.read();
  for (const line of breaks) {
    const what = line.replace(`${nft} `, 'nft ');
    frame.progress(`drift: ${what}`);
    const times: number[] = [];
    let lost = 0;
    for (let round = 0; round < rounds; round += 1) {
      const pings = hasPing ? countLost(pair, frame.quick ? 60 : 150) : undefined;
      await sleep(leadMs);
      const beginMs = performance.now();
      inside(pair.machines[0].namespace, ...line.split(' '));
      times.push((await repairedAt(look, whole, what)) - beginMs);
      lost += (await pings) ?? 0;
      await settle();
    }
    frame.samples(`drift, ${what}: until repaired`, times, { target: repairTarget });
    if (hasPing)
      frame.figure(`drift, ${what}: pings lost, one each ${pingEveryMs} ms`, lost / rounds, 'pings');
  }
}

/** Passes that follow on a pass are over. */
const settle = () => sleep(700);

async function repairedAt(look: Look, whole: string, what: string): Promise<number> {
  const deadlineMs = performance.now() + repairWithinMs;
  for (;;) {
    const atMs = performance.now();
    if ((await look.read()) === whole) return atMs;
    if (atMs > deadlineMs) throw new Error(`${what}: not repaired within ${repairWithinMs} ms`);
    await sleep(lookEveryMs);
  }
}

/** From pod to pod, so many pings. */
async function countLost({ pods: [from, to] }: Pair, pings: number): Promise<number> {
  const words = [program, '-q', '-i', String(pingEveryMs / 1000), '-c', String(pings), '-W', '1', to.address];
  const [command, args] = inNamespace(from.namespace, words);
  const { stdout } = await promisify(execFile)(command, args).catch((error: { stdout: string }) => error);
  const [, sent = 0, received = 0] =
    /(\d+) packets transmitted, (\d+) received/.exec(stdout)?.map(Number) ?? [];
  return sent - received;
}

/** What of ours is in the kernel, as one text. */
class Look implements Disposable {
  readonly #namespace: string;
  readonly #socket: NetlinkSocket;

  constructor(namespace: string) {
    using opened = openNamespace(`/run/netns/${namespace}`);
    this.#namespace = namespace;
    this.#socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: opened.fd });
  }

  async read(): Promise<string> {
    const socket = this.#socket;
    const tables = [
      new LinkTable({ socket }),
      new AddressTable({ socket }),
      new NeighborTable({ socket }),
      new FdbTable({ socket }),
      new RouteTable({ socket }),
    ];
    const rows: unknown[] = [];
    for (const table of tables) rows.push([...(await table.read())].toSorted());
    // The counters of chains count on.
    rows.push(inside(this.#namespace, nft, '-s', 'list', 'ruleset'));
    return JSON.stringify(rows);
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}
