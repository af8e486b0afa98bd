import {
  addressBits,
  type Cidr,
  cidrAddress,
  familyOf,
  type HostCidr,
  hostCidr,
  type Ip,
  ipOf,
  networkOf,
  prefixLengthOf,
  singleCidr,
} from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { AttachmentRoute, AttachmentRow } from '../../kernel/attachment.ts';
import { RT_SCOPE_LINK } from '../../kernel/netlink/route/route.ts';
import { hostNameOf } from '../attachment.ts';
import { refuseConfig } from '../config.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import type { IpamResult } from '../ipam-result.ts';
import { attachmentKey, type PartRows } from '../part.ts';
import type { InterfaceCall, ParseInput, PlannedPair, PluginType } from '../plugin-type.ts';
import type { Result } from '../result.ts';
import {
  type Absent,
  aliasOf,
  checkAddresses,
  gatewaysByFamily,
  type InterfaceConfig,
  macsOf,
  parseInterface,
  planRoutes,
  withDefaultRoutes,
} from './interface.ts';
import { planMasquerade } from './masquerade.ts';

/** All that a configuration of type ptp says. */
export interface PtpConfig extends InterfaceConfig {
  /** Pods' addresses stand alone (/32, /128); else they have the prefix of their subnet. */
  readonly isSingle: boolean;
  /** Pods get a default route for each family. */
  readonly isDefaultGateway: boolean;
}

/** Interfaces without a bridge: every packet of a pod is routed by the host. */
export const ptpType: PluginType = {
  kind: 'interface',
  parse(config, input) {
    const parsed = parsePtp(config, input, 'ptp');
    if (parsed instanceof CniError) return parsed;
    const network = { ipam: parsed.ipam, plan: (call: InterfaceCall) => planPtp(parsed, call) };
    return { kind: 'interface', network: () => network };
  },
};

/** In type fairlead (`mode: "ptp"`) addresses stand alone, and there are default routes without being asked for. */
export function parsePtp(config: Fields, input: ParseInput, type: 'ptp' | 'fairlead'): PtpConfig | CniError {
  const isFairlead = type === 'fairlead';
  const absent: Absent = isFairlead ? 'node' : 'none';
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const common = parseInterface(config, input, absent, problems);
  if (common instanceof CniError) return common;
  if (isFairlead) {
    for (const key of bridgeOnly) {
      if (reader.flag(key)) reader.problem(key, 'there is no bridge in mode "ptp"');
    }
  }
  const parsed: PtpConfig = {
    ...common,
    isSingle: isFairlead,
    isDefaultGateway: isFairlead && (reader.flag('isDefaultGateway') ?? true),
  };
  return refuseConfig(problems) ?? parsed;
}

/** What would be a loss to ignore. */
const bridgeOnly = ['macspoofchk', 'ipspoofchk', 'portIsolation', 'promiscMode'] as const;

/**
 * A packet from the pod goes to the gateway's MAC, which is that of the end on the host and known without asking;
 * the host routes it on. Back it goes by the host's route to the pod's one address and the pod's MAC, known too. So
 * the rows are the pair, both ends' addresses and neighbours, the host's routes, and forwarding.
 */
export function planPtp(config: PtpConfig, call: InterfaceCall): PlannedPair | CniError {
  const given = checkAddresses(config, call);
  if (given instanceof CniError) return given;
  const ips: RoutedIp[] = [];
  for (const { address, gateway = implicitGateway(address) } of given.ips) {
    if (gateway === undefined) return missingGateway(address);
    ips.push({
      address: config.isSingle ? alone(ipOf(address)) : address,
      gateway,
      subnet: networkOf(address),
    });
  }
  const routes = config.isDefaultGateway
    ? withDefaultRoutes(given.routes, gatewaysByFamily(ips))
    : given.routes;
  const attachment = planPair(config, call, ips, routes);
  return {
    attachment,
    rest() {
      const elements = config.masquerade ? planMasquerade(given.ips.map(({ address }) => address)) : [];
      return {
        rows: {
          attachment,
          ...planHostRows(attachment),
          ...(elements.length > 0 && { elements }),
        },
        result: planResult(config, attachment, { ...given, ips, routes }),
      };
    },
  };
}

/** An address with what is beyond it. */
interface RoutedIp {
  readonly address: HostCidr;
  readonly gateway: Ip;
  readonly subnet: Cidr;
}

function alone(ip: Ip): HostCidr {
  return hostCidr(ip, addressBits(familyOf(ip)));
}

/** The first address of the subnet, if that is not the pod's. */
function implicitGateway(address: HostCidr): Ip | undefined {
  const first = cidrAddress(networkOf(address), 1);
  return first === ipOf(address) ? undefined : first;
}

function missingGateway(address: HostCidr): CniError {
  return new CniError(cniCode.invalidConfig, `IPAM plugin returned no gateway for ${address}`);
}

function planPair(
  { mac, mtuBytes }: PtpConfig,
  { id, sandbox }: InterfaceCall,
  ips: readonly RoutedIp[],
  routes: IpamResult['routes'],
): AttachmentRow {
  const key = attachmentKey(id);
  const addresses = ips.map(({ address }) => address);
  const macs = macsOf(key, addresses);
  const podMac = mac ?? macs.pod;
  const gateways = [...new Set(ips.map(({ gateway }) => gateway))];
  return {
    hostName: hostNameOf(key),
    alias: aliasOf(key),
    mtuBytes,
    host: {
      addresses: gateways.map(alone),
      neighbors: addresses.map((address) => ({ ip: ipOf(address), mac: podMac })),
    },
    pod: {
      sandbox,
      ifname: id.ifname,
      mac: podMac,
      hostMac: macs.host,
      addresses,
      isRouted: true,
      neighbors: gateways.map((ip) => ({ ip, mac: macs.host })),
      routes: [...planLinkRoutes(ips), ...planRoutes(routes, ips)],
    },
  };
}

/** First the ways to the gateways, which all others go by; then those to the pods' own subnets. */
function planLinkRoutes(ips: readonly RoutedIp[]): AttachmentRoute[] {
  const gateways = new Map(
    ips.map(({ address, gateway }) => [
      gateway,
      { destination: singleCidr(gateway), source: ipOf(address), scope: RT_SCOPE_LINK },
    ]),
  );
  const subnets = ips.filter(({ subnet }) => prefixLengthOf(subnet) < addressBits(familyOf(subnet)));
  const bySubnet = subnets.map(({ address, gateway, subnet }) => {
    return { destination: subnet, gateway, source: ipOf(address) };
  });
  return [...gateways.values(), ...bySubnet];
}

/** Neighbours of the pod are elsewhere on the node or beyond it: the host must forward. */
function planHostRows({ hostName, pod }: AttachmentRow): PartRows {
  const addresses = pod?.addresses ?? [];
  const families = new Set(addresses.map(familyOf));
  return {
    routes: addresses.map((address) => ({ destination: singleCidr(ipOf(address)), device: hostName })),
    sysctls: [...families].map((family) => ({ key: forwarding[family], value: '1' })),
  };
}

const forwarding = { 4: 'net/ipv4/ip_forward', 6: 'net/ipv6/conf/all/forwarding' } as const;

function planResult(
  { dns }: PtpConfig,
  { hostName, mtuBytes, pod }: AttachmentRow,
  ipam: IpamResult,
): Result {
  return {
    interfaces: [
      { name: hostName, mac: pod?.hostMac, mtuBytes },
      { name: pod?.ifname ?? '', mac: pod?.mac, mtuBytes, sandbox: pod?.sandbox },
    ],
    ips: ipam.ips.map(({ address, gateway }) => ({ address, gateway, interface: 1 })),
    routes: ipam.routes,
    dns: dns ?? ipam.dns,
  };
}
