/** What the plugins that make an interface have in common: addresses, MAC, MTU, DNS, masquerading. */
import { hash } from 'node:crypto';
import {
  anyCidr,
  type Family,
  families,
  familyOf,
  type HostCidr,
  type Ip,
  ipOf,
  ipToBytes,
  type Mac,
  macFromBytes,
  parseMac,
} from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import { type AttachmentRoute, aliasBytesMax, attachmentAliasPrefix } from '../../kernel/attachment.ts';
import { RT_SCOPE_LINK } from '../../kernel/netlink/route/route.ts';
import { type CniRoute, type Dns, readDns, readMtu, readRoutes } from '../config.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import type { IpamResult } from '../ipam-result.ts';
import type { NodeNetwork } from '../node-network.ts';
import type { InterfaceCall, IpamChoice, ParseInput } from '../plugin-type.ts';
import { checkFamilies, type RangeSet, readRangeSets, subnetRange } from '../ranges.ts';
import { parseRequested } from '../requested.ts';
import { parseMasquerade } from './masquerade.ts';

/** Where addresses come from. Own ones without range sets come from the node's subnets. */
export type IpamConfig = IpamChoice;

export interface InterfaceConfig {
  /** Undefined: the kernel's 1500; of type fairlead the node's. */
  readonly mtuBytes?: number | undefined;
  readonly mac?: Mac | undefined;
  readonly masquerade: boolean;
  /** In the place of all that comes with the addresses. */
  readonly dns?: Dns | undefined;
  readonly ipam: IpamConfig;
  /** Of own addresses; a foreign plugin's come with its result. */
  readonly routes: readonly CniRoute[];
}

/** What a configuration without `ipam` means: type fairlead takes addresses of the node's subnets. */
export type Absent = 'none' | 'node';

/** Reads the common part; what is wrong is noted with `problems`, what has a text of its own comes back. */
export function parseInterface(
  config: Fields,
  input: ParseInput,
  absent: Absent,
  problems: Problem[],
): InterfaceConfig | CniError {
  const reader = new FieldReader(config, problems);
  const masquerade = parseMasquerade(config);
  if (masquerade instanceof CniError) return masquerade;
  const requested = parseRequested(config, input.args);
  if (requested instanceof CniError) return requested;
  const mtuBytes = readMtu(reader);
  const ipam = readIpam(reader, { ...input, absent, requested });
  return {
    mtuBytes,
    mac: readMac(reader, input.args.mac),
    masquerade,
    dns: readOwnDns(reader),
    ipam,
    routes: ipam.kind === 'own' ? readRoutes(reader.object('ipam')) : [],
  };
}

/** Values of `ipam.type` that mean the node's own book. */
const ownTypes: readonly string[] = ['', 'fairlead', 'host-local'];

/** The program that a configuration names for addresses, whatever else is wrong with it. Undefined: none. */
export function foreignIpamType(config: Fields): string | undefined {
  const type = new FieldReader(config, []).object('ipam').text('type') ?? '';
  return ownTypes.includes(type) ? undefined : type;
}

function readIpam(
  reader: FieldReader,
  { absent, requested, cniVersion, configText }: ParseInput & { absent: Absent; requested: readonly Ip[] },
): IpamConfig {
  const ipam = reader.object('ipam');
  const type = ipam.text('type') ?? '';
  if (type === '' && absent === 'none') return { kind: 'none' };
  if (!ownTypes.includes(type)) return { kind: 'foreign', type, configText };
  const rangeSets = readRangeSets(ipam, reader.object('runtimeConfig'));
  const crowded = checkFamilies(rangeSets, cniVersion);
  if (crowded !== undefined) ipam.problem('ranges', crowded);
  const isEmpty = rangeSets.length === 0 && !ipam.has('ranges') && !ipam.has('subnet');
  if (isEmpty && type === 'host-local' && absent === 'none') ipam.problem('ranges', 'no IP ranges specified');
  const resolvConf = ipam.text('resolvConf') || undefined;
  return { kind: 'own', rangeSets, requested, imports: rangeSets.length > 0, resolvConf };
}

/** `runtimeConfig.mac`, else `args.cni.mac`, else MAC of CNI_ARGS. */
function readMac(reader: FieldReader, fromArgs: string | undefined): Mac | undefined {
  const places = [
    { path: 'runtimeConfig.mac', text: reader.object('runtimeConfig').text('mac') },
    { path: 'args.cni.mac', text: reader.object('args').object('cni').text('mac') },
    { path: 'CNI_ARGS: MAC', text: fromArgs },
  ];
  const given = places.find(({ text }) => text !== undefined && text !== '');
  if (given?.text === undefined) return undefined;
  return (
    parseMac(given.text) ??
    reader.problem(given.path, `must be a MAC address, not ${JSON.stringify(given.text)}`)
  );
}

/** As soon as one of its lists is given, or a domain. */
function readOwnDns(reader: FieldReader): Dns | undefined {
  const dns = reader.object('dns');
  const read = readDns(dns);
  const isGiven = ['nameservers', 'search', 'options'].some((key) => dns.has(key)) || Boolean(read.domain);
  return isGiven ? read : undefined;
}

/** The choice as it is on this node: own addresses without ranges are of the node's subnets. */
export function chooseIpam(ipam: IpamConfig, node: NodeNetwork | undefined): IpamConfig | CniError {
  if (ipam.kind !== 'own' || ipam.rangeSets.length > 0) return ipam;
  if (node === undefined || node.subnets.length === 0) {
    return new CniError(cniCode.tryAgain, 'the node has no pod subnet yet');
  }
  const rangeSets: RangeSet[] = [];
  for (const subnet of node.subnets) {
    const range = subnetRange(subnet);
    if (typeof range === 'string')
      return new CniError(cniCode.invalidConfig, `pod subnet of the node: ${range}`);
    rangeSets.push([range]);
  }
  return { ...ipam, rangeSets };
}

/** The addresses and routes of one call; address management that was asked and gave nothing is an error. */
export function checkAddresses(
  { ipam, routes }: InterfaceConfig,
  call: InterfaceCall,
): IpamResult | CniError {
  if (ipam.kind !== 'none' && call.ipam.ips.length === 0) {
    return new CniError(cniCode.internal, 'IPAM plugin returned missing IP config');
  }
  return { ...call.ipam, routes: [...routes, ...call.ipam.routes] };
}

/** The first gateway of each family. */
export function gatewaysByFamily(ips: IpamResult['ips']): ReadonlyMap<Family, Ip> {
  const gateways = new Map<Family, Ip>();
  for (const { address, gateway } of ips) {
    if (gateway !== undefined && !gateways.has(familyOf(address))) gateways.set(familyOf(address), gateway);
  }
  return gateways;
}

/** The routes together with a default one for each family that has a gateway and no such route by a gateway yet. */
export function withDefaultRoutes(
  routes: readonly CniRoute[],
  gateways: ReadonlyMap<Family, Ip>,
): readonly CniRoute[] {
  const added = families.flatMap((family) => {
    const [destination, gateway] = [anyCidr(family), gateways.get(family)];
    const isThere = routes.some((route) => route.destination === destination && route.gateway !== undefined);
    return isThere || gateway === undefined ? [] : [{ destination, gateway }];
  });
  return [...routes, ...added];
}

/**
 * Routes as they are made: by the gateway of their family where they name none, unless they are to be on the link.
 * Equal ones are made once, those of a family without an address not at all.
 */
export function planRoutes(routes: readonly CniRoute[], ips: IpamResult['ips']): AttachmentRoute[] {
  const gateways = gatewaysByFamily(ips);
  const planned = new Map<string, AttachmentRoute>();
  for (const { destination, gateway, priority, table, scope } of routes) {
    const family = familyOf(destination);
    if (!ips.some(({ address }) => familyOf(address) === family)) continue;
    const by = gateway ?? (scope === RT_SCOPE_LINK ? undefined : gateways.get(family));
    planned.set(`${destination} ${by} ${priority} ${table} ${scope}`, {
      destination,
      gateway: by,
      priority,
      table,
      scope,
    });
  }
  return [...planned.values()];
}

/** Mark of the end on the host. Identifiers are ASCII: one byte a character. */
export function aliasOf(key: string): string {
  return `${attachmentAliasPrefix}${key}`.slice(0, aliasBytesMax);
}

const podMacByte = 0x0a;
const hostMacByte = 0x0e;

/** They follow from the pod's first address, so that neighbours' caches stay right; without one from the key. */
export function macsOf(key: string, [first]: readonly HostCidr[]): { readonly pod: Mac; readonly host: Mac } {
  const bytes = first === undefined ? hashed(key) : addressBytes(ipOf(first));
  const mac = (byte: number) => macFromBytes(Uint8Array.of(byte, 0x58, ...bytes));
  return { pod: mac(podMacByte), host: mac(hostMacByte) };
}

/** An IPv4 address as it is. The ends of IPv6 addresses are alike in every subnet: these are hashed. */
function addressBytes(ip: Ip): Uint8Array {
  return familyOf(ip) === 4 ? ipToBytes(ip) : hashed(ip);
}

function hashed(text: string): Uint8Array {
  return hash('sha256', text, 'buffer').subarray(0, 4);
}
