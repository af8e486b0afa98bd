import { hostCidr, type Ip, prefixLengthOf } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { CniArgs } from '../args.ts';
import { type CniRoute, type Dns, readRoutes } from '../config.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import type { GivenAddress } from '../ipam.ts';
import type { IpamResult } from '../ipam-result.ts';
import { checkFamilies, type RangeSet, readRangeSets } from '../ranges.ts';
import { parseRequested } from '../requested.ts';
import type { CniVersion } from '../version.ts';

/** Where host-local keeps its files if the configuration says nothing else. */
export const defaultDataDir = '/var/lib/cni/networks';

/** The `ipam` object of type host-local, together with what the runtime adds to it. */
export interface HostLocalConfig {
  /** A pod gets one address of each. Never empty. */
  readonly rangeSets: readonly RangeSet[];
  readonly routes: readonly CniRoute[];
  /** Asked for by the runtime; each must lie in a range set of its own. */
  readonly requested: readonly Ip[];
  /** Path of a resolv.conf(5) whose content is the dns of the result. */
  readonly resolvConf?: string | undefined;
}

/** Reads a configuration whose `ipam` is of type host-local. All problems come in one message. */
export function parseHostLocal(
  config: Fields,
  cniVersion: CniVersion,
  args: CniArgs = {},
): HostLocalConfig | CniError {
  if (!config.has('ipam')) return refuse("IPAM config missing 'ipam' key");
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const ipam = reader.object('ipam');
  const rangeSets = readRangeSets(ipam, reader.object('runtimeConfig'));
  const fields = { rangeSets, routes: readRoutes(ipam), resolvConf: nonEmpty(ipam.text('resolvConf')) };
  if (problems.length > 0) {
    const text = problems.map(({ path, message }) => `${path}: ${message}`).join('; ');
    return refuse(`invalid network config: ${text}`);
  }
  const wrong = rangeSets.length === 0 ? 'no IP ranges specified' : checkFamilies(rangeSets, cniVersion);
  if (wrong !== undefined) return refuse(wrong);
  const requested = parseRequested(config, args);
  return requested instanceof CniError ? requested : { ...fields, requested };
}

function refuse(message: string): CniError {
  return new CniError(cniCode.invalidConfig, message);
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}

/** `ipam.dataDir`: where host-local's files of earlier pods may lie. Whatever else is wrong, this can be read. */
export function readDataDir(config: Fields): string {
  const dataDir = new FieldReader(config, []).object('ipam').text('dataDir');
  return nonEmpty(dataDir) ?? defaultDataDir;
}

/**
 * Whether host-local gives the addresses of pods of that type, also for a configuration that an ADD would refuse. It is
 * what flannel takes where nothing is said.
 */
export function namesHostLocal(type: string, config: Fields): boolean {
  const ipamType = new FieldReader(config, []).object('ipam').text('type') ?? '';
  return ipamType === 'host-local' || (type === 'flannel' && ipamType === '');
}

/** What ADD answers: no interfaces, and each address with the prefix and the gateway of its range. */
export function planHostLocal(
  { routes }: Pick<HostLocalConfig, 'routes'>,
  given: readonly GivenAddress[],
  dns: Dns,
): IpamResult {
  const ips = given.map(({ ip, range }) => ({
    address: hostCidr(ip, prefixLengthOf(range.subnet)),
    gateway: range.gateway,
  }));
  return { ips, routes, dns };
}
