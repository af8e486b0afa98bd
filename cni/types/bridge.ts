import {
  cidrAddress,
  cidrsOverlap,
  familyOf,
  type HostCidr,
  hostCidr,
  networkOf,
  prefixLengthOf,
} from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { AttachmentRow } from '../../kernel/attachment.ts';
import type { BridgeVlanRow } from '../../kernel/bridge-vlan.ts';
import { bridgeMac, hostNameOf } from '../attachment.ts';
import { readLinkName, refuseConfig } from '../config.ts';
import { CniError } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import type { IpamResult } from '../ipam-result.ts';
import { attachmentKey, type BridgeNeed, type PartRows } from '../part.ts';
import type { InterfaceCall, ParseInput, PlannedPair, PluginType } from '../plugin-type.ts';
import type { Result, ResultInterface } from '../result.ts';
import {
  type Absent,
  aliasOf,
  checkAddresses,
  gatewaysByFamily,
  type InterfaceConfig,
  type IpamConfig,
  macsOf,
  parseInterface,
  planRoutes,
  withDefaultRoutes,
} from './interface.ts';
import { planMasquerade } from './masquerade.ts';
import { planSpoofCheck } from './spoof-check.ts';
import { type PortVlans, planVlans, readVlans, refuse } from './vlan.ts';

/** All that a configuration of type bridge says. */
export interface BridgeConfig extends InterfaceConfig {
  /** Undefined: the node's. */
  readonly bridge?: string | undefined;
  /** The host has the pods' gateway addresses on the bridge, and forwards. */
  readonly isGateway: boolean;
  /** Pods get a default route by it. */
  readonly isDefaultGateway: boolean;
  readonly addressConflict: BridgeNeeds['addressConflict'];
  readonly hairpin: boolean;
  readonly promiscuous: boolean;
  readonly vlans?: PortVlans | undefined;
  /** The pod may send from its own MAC only; "addresses": and from its own addresses only. */
  readonly spoofCheck: 'none' | 'mac' | 'addresses';
  readonly detectsDuplicates: boolean;
  /** The container's interface stays down. */
  readonly isDown: boolean;
  readonly isolated: boolean;
}

/** A bridge as a pod's rows need it to be. */
export interface BridgeNeeds extends BridgeNeed {
  readonly promiscuous?: boolean | undefined;
  /** What an address of the bridge is that is none of ours: left, the end of the ADD, or removed. */
  readonly addressConflict: 'keep' | 'refuse' | 'replace';
  /** The host's own port in the pods' VLAN, which has the gateways; then the bridge has none. */
  readonly vlanGateway?: VlanGateway | undefined;
}

/**
 * A veth pair in the node's namespace: one end a port of the bridge in that VLAN, the other the host's interface. To
 * be made once, with the descriptor of the node's namespace as that of the pod; the row of its port is in every
 * pod's `vlans`.
 */
export interface VlanGateway {
  readonly device: string;
  readonly attachment: AttachmentRow;
}

/** Defaults of the two types that have a bridge. */
interface Defaults {
  readonly bridge: string | undefined;
  readonly isGateway: boolean;
  readonly hairpin: boolean;
  readonly absent: Absent;
  readonly addressConflict: BridgeNeeds['addressConflict'];
}

const defaults: { readonly [type in 'bridge' | 'fairlead']: Defaults } = Object.freeze({
  bridge: { bridge: 'cni0', isGateway: false, hairpin: false, absent: 'none', addressConflict: 'refuse' },
  fairlead: { bridge: undefined, isGateway: true, hairpin: true, absent: 'node', addressConflict: 'keep' },
});

/** Interfaces that are a port of a bridge. */
export const bridgeType: PluginType = {
  kind: 'interface',
  parse(config, input) {
    const parsed = parseBridge(config, input, 'bridge');
    if (parsed instanceof CniError) return parsed;
    const network = { ipam: parsed.ipam, plan: (call: InterfaceCall) => planBridge(parsed, call) };
    return { kind: 'interface', network: () => network };
  },
};

/** Every problem that the reference plugin tells has its words; others come with their path. */
export function parseBridge(
  config: Fields,
  input: ParseInput,
  type: keyof typeof defaults,
): BridgeConfig | CniError {
  const preset = defaults[type];
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const common = parseInterface(config, input, preset.absent, problems);
  if (common instanceof CniError) return common;
  const isDefaultGateway = reader.flag('isDefaultGateway') ?? preset.isGateway;
  const parsed: BridgeConfig = {
    ...common,
    bridge: readLinkName(reader, 'bridge') ?? preset.bridge,
    isGateway: (reader.flag('isGateway') ?? preset.isGateway) || isDefaultGateway,
    isDefaultGateway,
    addressConflict: reader.flag('forceAddress') ? 'replace' : preset.addressConflict,
    hairpin: reader.flag('hairpinMode') ?? preset.hairpin,
    promiscuous: reader.flag('promiscMode') ?? false,
    vlans: readVlans(reader, problems),
    spoofCheck: readSpoofCheck(reader),
    detectsDuplicates: reader.flag('enabledad') ?? false,
    isDown: reader.flag('disableContainerInterface') ?? false,
    isolated: reader.flag('portIsolation') ?? false,
  };
  checkTogether(parsed, reader, problems);
  return refuseConfig(problems) ?? parsed;
}

function readSpoofCheck(reader: FieldReader): BridgeConfig['spoofCheck'] {
  const byMac = reader.flag('macspoofchk') ?? false;
  if (reader.flag('ipspoofchk')) return 'addresses';
  return byMac ? 'mac' : 'none';
}

function checkTogether(config: BridgeConfig, reader: FieldReader, problems: Problem[]): void {
  const { promiscuous, isDown, ipam, vlans, bridge, isGateway } = config;
  // Hairpin that nobody asked for gives way.
  if (promiscuous && reader.flag('hairpinMode')) {
    refuse(problems, 'cannot set hairpin mode and promiscuous mode at the same time');
  }
  if (isDown && ipam.kind !== 'none') {
    refuse(problems, 'cannot use IPAM when DisableContainerInterface flag is set');
  }
  if (vlans !== undefined && isGateway && bridge !== undefined && vlanDevice(bridge, vlans).length > 15) {
    reader.problem('bridge', `${vlanDevice(bridge, vlans)} would be longer than 15 characters`);
  }
}

function vlanDevice(bridge: string, { native }: PortVlans): string {
  return `${bridge}.${native}`;
}

/**
 * A packet from the pod leaves by `ifname`, comes out of the end on the host, and the bridge hands it to another
 * pod's end or, when it is for the gateway's MAC, to the host, which routes it on. So the rows are the pair with the
 * pod's addresses and routes, and what the port may send and to whom.
 */
export function planBridge(config: BridgeConfig, call: InterfaceCall): PlannedPair | CniError {
  const given = checkAddresses(config, call);
  if (given instanceof CniError) return given;
  const ipam = config.isGateway ? { ...given, ips: given.ips.map(withGateway) } : given;
  const routes = config.isDefaultGateway
    ? withDefaultRoutes(ipam.routes, gatewaysByFamily(ipam.ips))
    : ipam.routes;
  const need = planNeeds(config, ipam);
  const attachment = planPair(config, call, { ...ipam, routes }, need);
  return {
    attachment,
    bridge: need,
    rest: () => ({
      rows: { attachment, ...planPortRows(config, attachment, need) },
      bridge: need,
      result: planResult(config, attachment, { ...ipam, routes }, need),
    }),
  };
}

/** The first address of the subnet where address management names none. */
function withGateway(ip: IpamResult['ips'][number]): IpamResult['ips'][number] {
  return ip.gateway === undefined ? { ...ip, gateway: cidrAddress(networkOf(ip.address), 1) } : ip;
}

function planNeeds(config: BridgeConfig, ipam: IpamResult): BridgeNeeds {
  const { bridge = 'cni0', mtuBytes, addressConflict, promiscuous, vlans } = config;
  const need = {
    bridge,
    mtuBytes,
    gateways: config.isGateway ? gatewaysOf(config.ipam, ipam) : [],
    addressConflict,
    ...(promiscuous && { promiscuous: true }),
  };
  if (vlans === undefined || need.gateways.length === 0) return need;
  return { ...need, gateways: [], vlanGateway: planVlanGateway(vlans, need) };
}

/** Of own address management those of all ranges, so that they are the same for every pod. */
function gatewaysOf(config: IpamConfig, { ips }: IpamResult): HostCidr[] {
  const gateways =
    config.kind === 'own'
      ? config.rangeSets.flatMap((set) =>
          set.map(({ gateway, subnet }) => hostCidr(gateway, prefixLengthOf(subnet))),
        )
      : ips.flatMap(({ address, gateway }) =>
          gateway === undefined ? [] : [hostCidr(gateway, prefixLengthOf(address))],
        );
  return [...new Set(gateways)];
}

function planVlanGateway(vlans: PortVlans, { bridge, mtuBytes, gateways }: BridgeNeed): VlanGateway {
  const device = vlanDevice(bridge, vlans);
  const key = `gateway ${device}`;
  const macs = macsOf(key, gateways);
  return {
    device,
    attachment: {
      hostName: hostNameOf(key),
      // Ours, but no pod's.
      alias: `fairlead-gateway ${device}`,
      bridge,
      mtuBytes,
      pod: {
        sandbox: '',
        ifname: device,
        mac: macs.pod,
        hostMac: macs.host,
        addresses: gateways,
        routes: [],
      },
    },
  };
}

function planPair(
  config: BridgeConfig,
  { id, sandbox }: InterfaceCall,
  { ips, routes }: IpamResult,
  { bridge, mtuBytes }: BridgeNeed,
): AttachmentRow {
  const key = attachmentKey(id);
  const addresses = ips.map(({ address }) => address);
  const macs = macsOf(key, addresses);
  return {
    hostName: hostNameOf(key),
    alias: aliasOf(key),
    bridge,
    mtuBytes,
    hairpin: config.hairpin && !config.promiscuous,
    ...(config.isolated && { isolated: true }),
    pod: {
      sandbox,
      ifname: id.ifname,
      mac: config.mac ?? macs.pod,
      hostMac: macs.host,
      addresses,
      routes: planRoutes(routes, ips),
      ...(config.isGateway && isIpv4Only(addresses) && { isIpv4Only: true }),
      ...(config.isDown && { isDown: true }),
      ...(config.detectsDuplicates && { detectsDuplicates: true }),
    },
  };
}

/** Without any address, or without us as its gateway, a pod may find addresses by itself (SLAAC). */
function isIpv4Only(addresses: readonly HostCidr[]): boolean {
  return addresses.length > 0 && addresses.every((address) => familyOf(address) === 4);
}

function planPortRows(
  { isolated, vlans, masquerade, spoofCheck }: BridgeConfig,
  { hostName: port, pod }: AttachmentRow,
  { vlanGateway }: BridgeNeeds,
): PartRows {
  const addresses = pod?.addresses ?? [];
  const gateway = vlanGateway?.attachment.hostName;
  const bridgeElements =
    spoofCheck === 'none' || pod === undefined
      ? []
      : planSpoofCheck({ port, mac: pod.mac, addresses: spoofCheck === 'addresses' ? addresses : undefined });
  return {
    ...(isolated && { ports: [{ port }] }),
    ...(vlans !== undefined && { vlans: [planVlans(port, vlans), ...planGatewayPort(gateway, vlans)] }),
    ...(bridgeElements.length > 0 && { bridgeElements }),
    ...(masquerade && addresses.length > 0 && { elements: planMasquerade(addresses) }),
  };
}

function planGatewayPort(port: string | undefined, { native, keepsDefault }: PortVlans): BridgeVlanRow[] {
  return port === undefined ? [] : [planVlans(port, { native, trunk: [], keepsDefault })];
}

/** What ADD answers: the bridge, the end on the host, and the end in the container, which has the addresses. */
function planResult(
  { dns }: BridgeConfig,
  { hostName, mtuBytes, pod }: AttachmentRow,
  ipam: IpamResult,
  { bridge, gateways, vlanGateway }: BridgeNeeds,
): Result {
  const gateway = vlanGateway?.attachment.pod;
  const ownInterfaces: ResultInterface[] =
    gateway === undefined ? [] : [{ name: gateway.ifname, mac: gateway.mac, mtuBytes }];
  return {
    interfaces: [
      { name: bridge, mac: bridgeMac(gateways), mtuBytes },
      { name: hostName, mac: pod?.hostMac, mtuBytes },
      { name: pod?.ifname ?? '', mac: pod?.mac, mtuBytes, sandbox: pod?.sandbox },
      ...ownInterfaces,
    ],
    ips: ipam.ips.map(({ address, gateway }) => ({ address, gateway, interface: 2 })),
    routes: ipam.routes,
    dns: dns ?? ipam.dns,
  };
}

/**
 * What becomes of the addresses that a bridge has when it is to have those of `need`: which are to be removed, or
 * why it cannot be. Of IPv6, networks that do not overlap get along.
 */
export function planBridgeAddresses(
  { bridge, gateways, addressConflict }: BridgeNeeds,
  there: readonly HostCidr[],
): readonly HostCidr[] | CniError {
  if (addressConflict === 'keep') return [];
  const isConflict = (address: HostCidr) => gateways.some((gateway) => conflicts(gateway, address));
  const conflicting = there.filter((address) => !gateways.includes(address) && isConflict(address));
  const [first] = conflicting;
  if (first === undefined || addressConflict === 'replace') return conflicting;
  const gateway = gateways.find((one) => conflicts(one, first));
  return refuseConfig([
    { path: '', message: `"${bridge}" already has an IP address different from ${gateway}` },
  ]) as CniError;
}

function conflicts(gateway: HostCidr, address: HostCidr): boolean {
  if (familyOf(gateway) !== familyOf(address)) return false;
  return familyOf(gateway) === 4 || cidrsOverlap(networkOf(gateway), networkOf(address));
}
