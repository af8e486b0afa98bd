import {
  addressBits,
  type Cidr,
  cidrAddress,
  cidrContains,
  type Family,
  familyOf,
  type Ip,
  ipOf,
  ipToBigInt,
  parseIp,
  prefixLengthOf,
} from '../../core/address.ts';
import type { StatusCause } from '../../kube/errors.ts';
import { type KubeObject, objectKey, type V1Service } from '../../kube/types.ts';
import { invalid } from '../registry/field-errors.ts';
import type { Admission } from '../registry/kind.ts';
import { addressBands, pickFree, portBands } from './bands.ts';
import { familyName, resolveFamilies } from './families.ts';
import {
  hasClusterIp,
  hasHealthCheckNodePort,
  hasNodePorts,
  isHeadless,
  NO_CLUSTER_IP,
  type ServicePort,
  type ServiceSpec,
} from './model.ts';

const NODE_PORTS = { first: 30_000, last: 32_767 };
/** Of a range larger than this only the beginning is given out. */
const MOST_ADDRESSES = 2 ** 24;
/** The first address of a range, that of the API's own service, is never given out unasked. */
const RESERVED_OFFSET = 0;

/** Gives services their cluster IPs and node ports. Who has what is derived from the stored services. */
export class ServiceAdmission implements Admission {
  readonly #ranges: ReadonlyMap<Family, Cidr>;
  readonly #addresses = new Map<Ip, string>();
  readonly #ports = new Map<number, string>();

  /** @param serviceCidrs one per family, the first one being the default */
  constructor(serviceCidrs: readonly Cidr[]) {
    this.#ranges = new Map(serviceCidrs.map((cidr) => [familyOf(cidr), cidr]));
  }

  admit(service: V1Service): readonly StatusCause[] {
    const { spec } = service;
    if (spec === undefined || !hasClusterIp(spec)) return [];
    const owner = objectKey(service);
    const causes = resolveFamilies(spec, [...this.#ranges.keys()]);
    if (causes.length > 0) return causes;
    return [...this.#admitAddresses(spec, owner), ...this.#admitPorts(spec, owner)];
  }

  written(object: KubeObject | undefined, previous: KubeObject | undefined): void {
    if (previous !== undefined) this.#forget(previous);
    if (object !== undefined) this.#remember(object);
  }

  #admitAddresses(spec: ServiceSpec, owner: string): StatusCause[] {
    const asked = spec.clusterIPs ?? (spec.clusterIP === undefined ? [] : [spec.clusterIP]);
    const causes: StatusCause[] = [];
    const given = isHeadless(spec)
      ? [NO_CLUSTER_IP]
      : (spec.ipFamilies ?? []).map((name, index) => {
          const text = asked[index];
          const answer = text === undefined ? this.#freeAddress(name) : this.#askedAddress(text, owner);
          if (answer.cause !== undefined) causes.push(answer.cause);
          return answer.ip ?? '';
        });
    spec.clusterIPs = given;
    spec.clusterIP = given[0] ?? '';
    return causes;
  }

  #askedAddress(text: string, owner: string): { ip?: string; cause?: StatusCause } {
    const ip = parseIp(text);
    const range = ip && this.#ranges.get(familyOf(ip));
    const refuse = (why: string) => ({
      cause: invalid('spec.clusterIPs', [text], `failed to allocate IP ${text}: ${why}`),
    });
    if (ip === undefined || range === undefined || !isUsable(range, ip)) {
      return refuse(`the provided IP (${text}) is not in the valid range (${range ?? 'none'})`);
    }
    const holder = this.#addresses.get(ip);
    return holder === undefined || holder === owner ? { ip } : refuse('provided IP is already allocated');
  }

  #freeAddress(name: string): { ip?: string; cause?: StatusCause } {
    const range = [...this.#ranges].find(([family]) => familyName(family) === name)?.[1];
    if (range === undefined)
      return { cause: invalid('spec.ipFamilies', name, 'not configured on this cluster') };
    const bands = addressBands(Math.min(usableAddresses(range), MOST_ADDRESSES));
    const offset = pickFree(bands, (value) => {
      const ip = cidrAddress(range, value + 1);
      return value === RESERVED_OFFSET || ip === undefined || this.#addresses.has(ip);
    });
    const ip = offset === undefined ? undefined : cidrAddress(range, offset + 1);
    return ip === undefined
      ? { cause: invalid('spec.clusterIPs', [], `failed to allocate a serviceIP: range ${range} is full`) }
      : { ip };
  }

  #admitPorts(spec: ServiceSpec, owner: string): StatusCause[] {
    const causes = (spec.ports ?? []).flatMap((port, index) =>
      this.#askedPort(port.nodePort, `spec.ports[${index}].nodePort`, owner),
    );
    if (causes.length > 0) return causes;
    const taken = new Set((spec.ports ?? []).flatMap(({ nodePort }) => nodePort ?? []));
    if (hasNodePorts(spec)) {
      for (const [index, port] of (spec.ports ?? []).entries()) {
        port.nodePort ??= sharedPort(spec.ports ?? [], port) ?? this.#freePort(taken);
        if (port.nodePort === undefined) causes.push(portsExhausted(`spec.ports[${index}].nodePort`));
        else taken.add(port.nodePort);
      }
    }
    return [...causes, ...this.#admitHealthPort(spec, owner, taken)];
  }

  #admitHealthPort(spec: ServiceSpec, owner: string, taken: ReadonlySet<number>): StatusCause[] {
    if (!hasHealthCheckNodePort(spec)) return [];
    const field = 'spec.healthCheckNodePort';
    if (spec.healthCheckNodePort === 0) delete spec.healthCheckNodePort;
    spec.healthCheckNodePort ??= this.#freePort(taken);
    return spec.healthCheckNodePort === undefined
      ? [portsExhausted(field)]
      : this.#askedPort(spec.healthCheckNodePort, field, owner);
  }

  #askedPort(port: number | undefined, field: string, owner: string): StatusCause[] {
    if (port === undefined) return [];
    const { first, last } = NODE_PORTS;
    if (port < first || port > last) {
      return [
        invalid(
          field,
          port,
          `provided port is not in the valid range. The range of valid ports is ${first}-${last}`,
        ),
      ];
    }
    const holder = this.#ports.get(port);
    return holder === undefined || holder === owner
      ? []
      : [invalid(field, port, 'provided port is already allocated')];
  }

  #freePort(taken: ReadonlySet<number>): number | undefined {
    const { first, last } = NODE_PORTS;
    const isUsed = (value: number) => this.#ports.has(first + value) || taken.has(first + value);
    const value = pickFree(portBands(last - first + 1), isUsed);
    return value === undefined ? undefined : first + value;
  }

  #remember(service: V1Service): void {
    const owner = objectKey(service);
    for (const ip of addressesOf(service)) this.#addresses.set(ip, owner);
    for (const port of portsOf(service)) this.#ports.set(port, owner);
  }

  #forget(service: V1Service): void {
    const owner = objectKey(service);
    for (const ip of addressesOf(service)) if (this.#addresses.get(ip) === owner) this.#addresses.delete(ip);
    for (const port of portsOf(service)) if (this.#ports.get(port) === owner) this.#ports.delete(port);
  }
}

function addressesOf({ spec }: V1Service): Ip[] {
  return (spec?.clusterIPs ?? []).flatMap((text) => parseIp(text) ?? []);
}

function portsOf({ spec }: V1Service): number[] {
  const ports = [...(spec?.ports ?? []).map(({ nodePort }) => nodePort), spec?.healthCheckNodePort];
  return ports.filter((port) => port !== undefined);
}

/** The network's own address is not used, nor IPv4's broadcast address. */
function usableAddresses(range: Cidr): number {
  const bits = addressBits(familyOf(range)) - prefixLengthOf(range);
  return 2 ** bits - (familyOf(range) === 4 ? 2 : 1);
}

function isUsable(range: Cidr, ip: Ip): boolean {
  if (!cidrContains(range, ip)) return false;
  const offset = Number(ipToBigInt(ip) - ipToBigInt(ipOf(range)));
  return offset >= 1 && offset <= usableAddresses(range);
}

/** A port that is served by several protocols has one node port for all of them. */
function sharedPort(ports: readonly ServicePort[], { port, protocol }: ServicePort): number | undefined {
  const isUsed = (nodePort: number) =>
    ports.some((other) => other.protocol === protocol && other.nodePort === nodePort);
  const twin = ports.find(
    (other) => other.port === port && other.protocol !== protocol && other.nodePort !== undefined,
  );
  return twin?.nodePort === undefined || isUsed(twin.nodePort) ? undefined : twin.nodePort;
}

function portsExhausted(field: string): StatusCause {
  return invalid(field, 0, 'failed to allocate a nodePort: range is full');
}
