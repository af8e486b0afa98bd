import { type Cidr, type Ip, networkOf, parseHostCidr, parseIp } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import { CniError, cniCode } from './error.ts';
import type { FieldReader } from './fields.ts';

/** A route as configurations and results write it. */
export interface CniRoute {
  readonly destination: Cidr;
  readonly gateway?: Ip | undefined;
  readonly mtuBytes?: number | undefined;
  readonly advertisedMss?: number | undefined;
  readonly priority?: number | undefined;
  readonly table?: number | undefined;
  readonly scope?: number | undefined;
}

/** For the container's resolver; only passed on. */
export interface Dns {
  readonly nameservers: readonly string[];
  readonly domain?: string | undefined;
  readonly search: readonly string[];
  readonly options: readonly string[];
}

export const noDns: Dns = Object.freeze({ nameservers: [], domain: undefined, search: [], options: [] });

const mtuBytesLeast = 68;
const mtuBytesMost = 65_535;
const u32Most = 2 ** 32 - 1;
/** All problems of a configuration as one error; undefined without any. What has no path stands as it is. */
export function refuseConfig(problems: readonly Problem[]): CniError | undefined {
  if (problems.length === 0) return undefined;
  const texts = problems.map(({ path, message }) => (path === '' ? message : `${path}: ${message}`));
  const text = texts.join('; ');
  const isPlain = problems.every(({ path }) => path === '');
  return new CniError(cniCode.invalidConfig, isPlain ? text : `invalid network config: ${text}`);
}

/** Empty text is absent. What the kernel would take besides is nothing that its parameters could be found by. */
export function readLinkName(reader: FieldReader, key: string): string | undefined {
  const isName = (text: string) =>
    /^[\w.@-]{1,15}$/.test(text) && !/^(\.\.?|all|default)$/.test(text) ? text : undefined;
  return reader.parsed(key, 'a link name of at most 15 characters', isName);
}

/** 0 is the same as absent. */
export function readMtu(reader: FieldReader): number | undefined {
  const mtuBytes = reader.integer('mtu', 0, mtuBytesMost);
  if (mtuBytes === undefined || mtuBytes === 0) return undefined;
  return mtuBytes >= mtuBytesLeast
    ? mtuBytes
    : reader.problem('mtu', `at least ${mtuBytesLeast}, not ${mtuBytes}`);
}

/** `dst` may have host bits; they do not count, as in Go's net.ParseCIDR. */
function parseDestination(text: string): Cidr | undefined {
  const host = parseHostCidr(text);
  return host === undefined ? undefined : networkOf(host);
}

/** `routes` of an `ipam` object. */
export function readRoutes(ipam: FieldReader): CniRoute[] {
  const routes: CniRoute[] = [];
  ipam.list('routes').forEach((entry, index) => {
    const reader = ipam.entry(`routes[${index}]`, entry);
    const route = reader === undefined ? undefined : readRoute(reader);
    if (route !== undefined) routes.push(route);
  });
  return routes;
}

function readRoute(reader: FieldReader): CniRoute | undefined {
  const destination = reader.parsed('dst', 'a network such as 10.0.0.0/8', parseDestination);
  const route = {
    gateway: reader.parsed('gw', 'an IP address', parseIp),
    mtuBytes: reader.integer('mtu', 0, u32Most),
    advertisedMss: reader.integer('advmss', 0, u32Most),
    priority: reader.integer('priority', 0, u32Most),
    table: reader.integer('table', 0, u32Most),
    scope: reader.integer('scope', 0, 255),
  };
  if (destination !== undefined) return { destination, ...route };
  return reader.has('dst') ? undefined : reader.problem('dst', 'missing');
}

/** Nameservers and so on, of a configuration or of a result. */
export function readDns(reader: FieldReader): Dns {
  return {
    nameservers: reader.texts('nameservers'),
    domain: reader.text('domain') || undefined,
    search: reader.texts('search'),
    options: reader.texts('options'),
  };
}
