import { createHash } from 'node:crypto';
import { type Mac, macFromBytes } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { QdiscRow } from '../../kernel/qdisc.ts';
import type { Shaper } from '../../kernel/tbf.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import type { Result } from '../result.ts';

/** What the container may receive (ingress) and send (egress), as runtimes see it. Undefined: no limit. */
export interface BandwidthConfig {
  readonly ingress?: Shaper | undefined;
  readonly egress?: Shaper | undefined;
}

const keys = ['ingressRate', 'ingressBurst', 'egressRate', 'egressBurst', 'shapedSubnets', 'unshapedSubnets'];
/** A bucket of this many bytes and more cannot be written down for the kernel. */
const burstBytesEnd = 2 ** 32 - 1;

/**
 * Reads a configuration of type bandwidth: rates in bits a second, bursts in bits. If any key of it stands in the
 * configuration itself, `runtimeConfig.bandwidth` does not count at all, as with the reference plugin.
 */
export function parseBandwidth(config: Fields): BandwidthConfig | CniError {
  const problems: Problem[] = [];
  const reader = findReader(config, problems);
  const directions = {
    ingress: { rate: readBits(reader, 'ingressRate'), burst: readBits(reader, 'ingressBurst') },
    egress: { rate: readBits(reader, 'egressRate'), burst: readBits(reader, 'egressBurst') },
  };
  for (const key of ['shapedSubnets', 'unshapedSubnets']) {
    if (reader.texts(key).length > 0) reader.problem(key, 'limits for some addresses only are not supported');
  }
  if (problems.length > 0) {
    const text = problems.map(({ path, message }) => `${path}: ${message}`).join('; ');
    return new CniError(cniCode.invalidConfig, `failed to parse network configuration: ${text}`);
  }
  const wrong = checkDirection(directions.ingress) ?? checkDirection(directions.egress);
  if (wrong !== undefined) return new CniError(cniCode.invalidConfig, wrong);
  return { ingress: shaperOf(directions.ingress), egress: shaperOf(directions.egress) };
}

function findReader(config: Fields, problems: Problem[]): FieldReader {
  const top = new FieldReader(config, problems);
  return keys.some((key) => top.has(key)) ? top : top.object('runtimeConfig').object('bandwidth');
}

function readBits(reader: FieldReader, key: string): number {
  return reader.integer(key, 0, Number.MAX_SAFE_INTEGER) ?? 0;
}

interface Direction {
  /** Bits a second. */
  readonly rate: number;
  /** Bits. */
  readonly burst: number;
}

function checkDirection({ rate, burst }: Direction): string | undefined {
  if (rate !== 0 && burst === 0) return 'if rate is set, burst must also be set';
  if (rate === 0 && burst !== 0) return 'if burst is set, rate must also be set';
  return Math.floor(burst / 8) >= burstBytesEnd ? 'burst cannot be more than 4GB' : undefined;
}

/** The kernel counts bytes; less than one would be none. */
function shaperOf({ rate, burst }: Direction): Shaper | undefined {
  if (rate === 0) return undefined;
  return { rateBytes: Math.max(1, Math.floor(rate / 8)), burstBytes: Math.max(1, Math.floor(burst / 8)) };
}

/** One attachment, and what was found about it. */
export interface BandwidthCall {
  readonly network: string;
  readonly containerId: string;
  readonly ifname: string;
  /** Of the plugin before in the chain. */
  readonly previous: Result | undefined;
  /** The other end of the container's interface. Undefined: it is no veth. */
  readonly peer?: BandwidthPeer | undefined;
}

export interface BandwidthPeer {
  readonly index: number;
  /** Undefined: it is not in the node's namespace. */
  readonly name?: string | undefined;
  readonly mtuBytes?: number | undefined;
}

export interface BandwidthRows {
  readonly qdiscs: readonly QdiscRow[];
}

/**
 * What the container receives leaves the node by its end of the veth pair, and waits there. What it sends comes in
 * by that end, where nothing can wait: it is led through a link of its own first, and waits when it leaves that.
 */
export function planBandwidth(config: BandwidthConfig, call: BandwidthCall): BandwidthRows | CniError {
  const { ingress, egress } = config;
  if (ingress === undefined && egress === undefined) return { qdiscs: [] };
  const device = findDevice(call);
  if (device instanceof CniError) return device;
  const receive = egress && { ...egress, ...planIfb(call) };
  return { qdiscs: [{ device, transmit: ingress, receive }] };
}

/** The node's end of the pair, which the plugin that made it must have told. */
function findDevice({ previous, ifname, peer }: BandwidthCall): string | CniError {
  const refuse = (text: string) => new CniError(cniCode.internal, text);
  if (previous === undefined) return refuse('must be called as chained plugin');
  if (previous.interfaces.length === 0) return refuse('no interfaces provided');
  if (peer === undefined) return refuse(`container interface ${ifname} has no veth peer`);
  if (peer.name === undefined) return refuse(`veth peer with index ${peer.index} is not in host ns`);
  const isTold = previous.interfaces.some(({ name, sandbox = '' }) => name === peer.name && sandbox === '');
  return isTold ? peer.name : refuse('no veth peer of container interface found in host ns');
}

const ifbPrefix = 'bwp';
const ifnameLength = 15;

/** Name and MAC address of the link follow from the attachment: a second ADD makes the same one. */
function planIfb(call: BandwidthCall): { ifb: string; mac: Mac; mtuBytes: number | undefined } {
  const { network, containerId, ifname, peer } = call;
  const hash = createHash('sha512').update([network, containerId, ifname].join('\0')).digest();
  const mac = Uint8Array.of(0x02, ...hash.subarray(-5));
  const ifb = `${ifbPrefix}${hash.toString('hex')}`.slice(0, ifnameLength);
  return { ifb, mac: macFromBytes(mac), mtuBytes: peer?.mtuBytes };
}

/** The result with the link that was made, as the reference plugin tells it. */
export function addBandwidthInterface(result: Result, { qdiscs }: BandwidthRows): Result {
  const made = qdiscs.flatMap(({ receive }) => {
    return receive === undefined ? [] : [{ name: receive.ifb, mac: receive.mac }];
  });
  return made.length === 0 ? result : { ...result, interfaces: [...result.interfaces, ...made] };
}
