import { familyOf, type HostCidr, type Ip } from '../core/address.ts';
import type { AttachmentRoute } from '../kernel/attachment.ts';
import type { Dns } from './config.ts';
import { CniError, cniCode } from './error.ts';
import { type CniVersion, isAtLeast, supportedVersions } from './version.ts';

export interface ResultInterface {
  readonly name: string;
  /** As the plugin that made it wrote it: not every link's address is one of Ethernet. */
  readonly mac?: string | undefined;
  readonly mtuBytes?: number | undefined;
  /** CNI_NETNS exactly as given; undefined on the host. */
  readonly sandbox?: string | undefined;
  readonly socketPath?: string | undefined;
  readonly pciId?: string | undefined;
}

export interface ResultAddress {
  readonly address: HostCidr;
  readonly gateway?: Ip | undefined;
  /** Index into the interfaces. */
  readonly interface?: number | undefined;
}

/** What ADD answers, in the shape of the newest version. */
export interface Result {
  readonly interfaces: readonly ResultInterface[];
  readonly ips: readonly ResultAddress[];
  readonly routes: readonly (AttachmentRoute & {
    readonly mtuBytes?: number | undefined;
    readonly advertisedMss?: number | undefined;
  })[];
  readonly dns: Dns;
}

/**
 * The result as JSON in the version of the configuration, converted as the Go library does: each version has
 * what it knows. 0.1.0 and 0.2.0 have one address of each family, and a result without any cannot be written.
 */
export function renderResult(result: Result, version: CniVersion): string | CniError {
  if (version === '0.1.0' || version === '0.2.0') return renderLegacy(result, version);
  const isV1 = isAtLeast(version, '1.0.0') === true;
  const isNewest = isAtLeast(version, '1.1.0') === true;
  const dns = renderDns(result.dns);
  return JSON.stringify({
    cniVersion: version,
    interfaces: nonEmpty(result.interfaces.map((one) => renderInterface(one, isNewest))),
    ips: nonEmpty(result.ips.map((ip) => renderAddress(ip, isV1))),
    routes: nonEmpty(result.routes.map((route) => renderRoute(route, isNewest))),
    // Versions before 1 have the key always.
    dns: isV1 && Object.keys(dns).length === 0 ? undefined : dns,
  });
}

function nonEmpty<T>(list: readonly T[]): readonly T[] | undefined {
  return list.length === 0 ? undefined : list;
}

function renderInterface(one: ResultInterface, isNewest: boolean) {
  const { name, mac, mtuBytes: mtu, sandbox, socketPath, pciId: pciID } = one;
  return isNewest ? { name, mac, mtu, sandbox, socketPath, pciID } : { name, mac, sandbox };
}

function renderAddress({ address, gateway, interface: index }: ResultAddress, isV1: boolean) {
  return { version: isV1 ? undefined : String(familyOf(address)), interface: index, address, gateway };
}

function renderRoute(route: Result['routes'][number], isNewest: boolean) {
  const { destination: dst, gateway: gw } = route;
  if (!isNewest) return { dst, gw };
  const { mtuBytes: mtu, advertisedMss: advmss, priority, table, scope } = route;
  return { dst, gw, mtu, advmss, priority, table, scope };
}

function renderDns({ nameservers, domain, search, options }: Dns): Record<string, unknown> {
  return {
    ...(nameservers.length > 0 && { nameservers }),
    ...(domain !== undefined && domain !== '' && { domain }),
    ...(search.length > 0 && { search }),
    ...(options.length > 0 && { options }),
  };
}

function renderLegacy(result: Result, version: CniVersion): string | CniError {
  const ip4 = renderLegacyFamily(result, 4);
  const ip6 = renderLegacyFamily(result, 6);
  if (ip4 === undefined && ip6 === undefined) {
    return new CniError(cniCode.internal, 'cannot convert: no valid IP addresses');
  }
  return JSON.stringify({ cniVersion: version, ip4, ip6, dns: renderDns(result.dns) });
}

function renderLegacyFamily({ ips, routes }: Result, family: 4 | 6) {
  const first = ips.find(({ address }) => familyOf(address) === family);
  if (first === undefined) return undefined;
  const ours = routes.filter(({ destination }) => familyOf(destination) === family);
  const rendered = ours.map(({ destination: dst, gateway: gw }) => ({ dst, gw }));
  return { ip: first.address, gateway: first.gateway, routes: nonEmpty(rendered) };
}

/** The error object of the specification §5. */
export function renderError(error: CniError, version: string): string {
  const { code, message: msg, details } = error;
  return JSON.stringify({ cniVersion: version, code, msg, details: details === '' ? undefined : details });
}

/** The answer to VERSION. */
export function renderVersions(): string {
  return JSON.stringify({ cniVersion: supportedVersions.at(-1), supportedVersions });
}
