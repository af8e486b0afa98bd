import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { type Cidr, type Ip, ipFromBigInt } from '../core/address.ts';
import { createNamespace, deleteNamespace, openNamespace } from '../kernel/netns.ts';
import type { V1EndpointSlice, V1Service } from '../kube/types.ts';
import type { Backend } from '../proxy/backend.ts';
import { openNftables } from '../proxy/nftables/backend.ts';
import { ServiceViews } from '../proxy/views.ts';
import { type Frame, interleave } from './frame.ts';

export const description = 'the service proxy: loading services into nftables, and the cost of one change';

const execute = promisify(execFile);
/** Not node_modules/.bin/nft, which is another program. */
const NFT = '/usr/sbin/nft';
const ENDPOINTS = 10;
/** Prime, so that the changed services lie all over the tables. */
const STRIDE = 7919;

export async function run(frame: Frame): Promise<void> {
  for (const services of frame.quick ? [100] : [1_000, 5_000, 10_000]) await measure(frame, services);
  frame.missing('kube-proxy', 'not installed here');
}

async function measure(frame: Frame, services: number): Promise<void> {
  const name = `bench-${randomBytes(6).toString('hex')}`;
  const path = `/run/netns/${name}`;
  createNamespace(path);
  try {
    using namespace = openNamespace(path);
    await measureIn(frame, new World(services), { name, fd: namespace.fd });
  } finally {
    deleteNamespace(path);
  }
}

interface Namespace {
  readonly name: string;
  readonly fd: number;
}

async function measureIn(frame: Frame, world: World, namespace: Namespace): Promise<void> {
  const size = `${world.services.size.toLocaleString('en')} services`;
  const isFull = world.services.size === 10_000;
  frame.progress(`${size} × ${ENDPOINTS} endpoints`);
  const views = await timesOf(1, () => world.views.refresh());
  frame.samples(`${size}: views of all`, views);
  const load = await timesOf(frame.quick ? 1 : 5, async () => {
    await execute('nsenter', [`--net=/run/netns/${namespace.name}`, NFT, 'flush', 'ruleset']);
    using backend = open(namespace);
    const startMs = performance.now();
    await backend.replace(world.views.current);
    return performance.now() - startMs;
  });
  frame.samples(`${size}: load`, load, { target: { atMost: isFull ? 250 : 150 } });
  using backend = open(namespace);
  const restart = await timesOf(1, () => backend.replace(world.views.current));
  frame.samples(`${size}: restart, nothing to write`, restart);
  const again = await timesOf(frame.quick ? 1 : 5, () => backend.replace(world.views.current));
  frame.samples(`${size}: full read-back`, again);
  await measureChanges(frame, size, world, backend, namespace);
}

/** Each from the changed object to the kernel's acknowledgement, whichever service it is. */
async function measureChanges(
  frame: Frame,
  size: string,
  world: World,
  backend: Backend,
  namespace: Namespace,
): Promise<void> {
  const count = frame.quick ? 20 : 1_000;
  const change = (endpoints: number) => () =>
    timesOf(count, async () => {
      world.replaceEndpoints(endpoints);
      const startMs = performance.now();
      const { failures } = await backend.update(world.views.refresh());
      const ms = performance.now() - startMs;
      if (failures[0] !== undefined) throw failures[0].error;
      return ms;
    });
  const grow = () =>
    timesOf(count, async () => {
      world.growOrShrink();
      const startMs = performance.now();
      await backend.update(world.views.refresh());
      return performance.now() - startMs;
    });
  const tool = () => timesOf(3, () => replaceByTool(namespace));
  const rounds = frame.quick ? 1 : 5;
  const { one, ten, more, nft } = await interleave(rounds, {
    one: change(1),
    ten: change(ENDPOINTS),
    more: grow,
    nft: tool,
  });
  frame.samples(`${size}: one endpoint replaced`, one, { target: { atMost: 0.05 } });
  frame.samples(`${size}: ten endpoints replaced`, ten, { target: { atMost: 0.1 } });
  frame.samples(`${size}: an endpoint more or less`, more, { target: { atMost: 0.05 } });
  frame.samples(`${size}: one element of the same map replaced by nft`, nft);
  frame.ratio(`${size}: one endpoint, nft / ours`, nft, one, { target: { atLeast: 20 } });
}

/** The same change of the kernel through the command-line tool, back at once. */
async function replaceByTool({ name }: Namespace): Promise<void> {
  const key = '{ 1:0 . tcp . 0 }';
  const table = 'ip fairlead-proxy endpoints';
  const input = `delete element ${table} ${key}\nadd element ${table} { 1:0 . tcp . 0 : 10.9.9.9 . 1 }\n`;
  const child = execute('nsenter', [`--net=/run/netns/${name}`, NFT, '-f', '-']);
  child.child.stdin?.end(input);
  await child;
}

/** Durations in milliseconds; of actions that return a number, that number. */
async function timesOf(count: number, action: () => unknown): Promise<number[]> {
  const times: number[] = [];
  for (let round = 0; round < count; round += 1) {
    const startMs = performance.now();
    const returned = await action();
    times.push(typeof returned === 'number' ? returned : performance.now() - startMs);
  }
  return times;
}

function open({ fd }: Namespace): Backend {
  const nodeAddresses = ['192.0.2.1' as Ip];
  return openNftables({
    namespaceFd: fd,
    nodeAddresses,
    clusterCidrs: ['10.128.0.0/9' as Cidr],
    families: [4],
  });
}

/** Services with their slices, as an API server would have them. */
class World {
  readonly services = new Map<string, V1Service>();
  readonly slices = new Map<string, V1EndpointSlice>();
  readonly views = new ServiceViews(this, { nodeName: 'here', nodeIps: [] });
  readonly #endpoints: number[][] = [];
  #nextAddress = 0x0a800000;
  #turn = 0;

  constructor(count: number) {
    for (let number = 0; number < count; number += 1) {
      this.#endpoints.push(Array.from({ length: ENDPOINTS }, () => this.#nextAddress++));
      const clusterIP = addressText(0x0a600000 + number);
      this.services.set(`default/s${number}`, {
        metadata: { namespace: 'default', name: `s${number}` },
        spec: {
          clusterIP,
          clusterIPs: [clusterIP],
          ipFamilies: ['IPv4'],
          ports: [{ port: 80, protocol: 'TCP' }],
        },
      });
      this.views.markService(`default/s${number}`);
      this.#publish(number);
    }
  }

  /** Gives the next service's first endpoints other addresses. */
  replaceEndpoints(count: number): void {
    const number = this.#next();
    const addresses = this.#endpoints[number] ?? [];
    for (let index = 0; index < count; index += 1) addresses[index] = this.#nextAddress++;
    this.#publish(number);
  }

  /** One endpoint less, or one more where there is one less. */
  growOrShrink(): void {
    const number = this.#next();
    const addresses = this.#endpoints[number] ?? [];
    if (addresses.length < ENDPOINTS) addresses.push(this.#nextAddress++);
    else addresses.shift();
    this.#publish(number);
  }

  #next(): number {
    this.#turn += STRIDE;
    return this.#turn % this.services.size;
  }

  #publish(number: number): void {
    const key = `default/s${number}-1`;
    this.slices.set(key, {
      metadata: {
        namespace: 'default',
        name: `s${number}-1`,
        labels: { 'kubernetes.io/service-name': `s${number}` },
      },
      addressType: 'IPv4',
      ports: [{ name: '', port: 8080, protocol: 'TCP' }],
      endpoints: (this.#endpoints[number] ?? []).map((address) => ({
        addresses: [addressText(address)],
        nodeName: 'there',
        conditions: { ready: true, serving: true, terminating: false },
      })),
    });
    this.views.markSlice(key);
  }
}

function addressText(address: number): Ip {
  return ipFromBigInt(BigInt(address), 4);
}
