import { type AttachmentNetwork, planAttachment, planNetwork, planResult } from '../attachment.ts';
import { type NetworkConfig, parseNetworkConfig } from '../config.ts';
import { CniError } from '../error.ts';
import type { Fields } from '../fields.ts';
import type { PartRows } from '../part.ts';
import type { InterfaceCall, Planned, PluginType } from '../plugin-type.ts';
import { parseRequested } from '../requested.ts';
import type { Result } from '../result.ts';
import { type BandwidthConfig, parseBandwidth, planBandwidth } from './bandwidth.ts';
import { parseMasquerade, planMasquerade } from './masquerade.ts';
import { type PortmapConfig, parsePortmap, planLocalnet, planPortmap, podAddresses } from './portmap.ts';

/** All that the one configuration says. */
interface FairleadConfig {
  readonly network: NetworkConfig;
  readonly masquerade: boolean;
  readonly portmap: PortmapConfig;
  readonly bandwidth: BandwidthConfig;
}

/**
 * The whole chain in one call: an interface on a bridge, with addresses of the node's own subnets unless the
 * configuration has others, masquerading (`ipMasq`), host ports and limits of bandwidth (`runtimeConfig`).
 */
export const fairleadType: PluginType = {
  kind: 'interface',
  parse(config, { args }) {
    const parsed = parseFairlead(config);
    if (parsed instanceof CniError) return parsed;
    const requested = parseRequested(config, args);
    if (requested instanceof CniError) return requested;
    return {
      kind: 'interface',
      network(node) {
        const network = planNetwork(parsed.network, node);
        if (network instanceof CniError) return network;
        const { rangeSets } = network;
        return {
          ipam: { kind: 'own', rangeSets, requested, imports: parsed.network.rangeSets.length > 0 },
          plan: (call) => planFairlead(parsed, network, call),
        };
      },
    };
  },
};

function parseFairlead(config: Fields): FairleadConfig | CniError {
  const network = parseNetworkConfig(config);
  if (network instanceof CniError) return network;
  const masquerade = parseMasquerade(config);
  if (masquerade instanceof CniError) return masquerade;
  const portmap = parsePortmap(config);
  if (portmap instanceof CniError) return portmap;
  const bandwidth = parseBandwidth(config);
  if (bandwidth instanceof CniError) return bandwidth;
  return { network, masquerade, portmap, bandwidth };
}

function planFairlead(
  config: FairleadConfig,
  network: AttachmentNetwork,
  { id, sandbox, ipam }: InterfaceCall,
): Planned | CniError {
  const all = { ...ipam, routes: [...network.routes, ...ipam.routes] };
  const attachment = planAttachment({ id, sandbox }, network, all);
  const result = planResult(attachment, ipam, network);
  const limits = planBandwidth(config.bandwidth, {
    ...id,
    previous: result,
    peer: { index: 0, name: attachment.hostName, mtuBytes: network.mtuBytes },
  });
  if (limits instanceof CniError) return limits;
  const filter = planFilter(config, network.bridge, id.ifname, result);
  if (filter instanceof CniError) return filter;
  const { bridge, mtuBytes, gateways } = network;
  return {
    rows: { attachment, ...(limits.qdiscs.length > 0 && { qdiscs: limits.qdiscs }), ...filter },
    bridge: { bridge, mtuBytes, gateways },
    result,
  };
}

function planFilter(
  { masquerade, portmap }: FairleadConfig,
  bridge: string,
  ifname: string,
  result: Result,
): PartRows | CniError {
  const masquerading = masquerade ? planMasquerade(result.ips.map(({ address }) => address)) : [];
  if (portmap.mappings.length === 0) return masquerading.length > 0 ? { elements: masquerading } : {};
  const addresses = podAddresses(result, ifname);
  const ports = planPortmap(portmap, addresses);
  if (ports instanceof CniError) return ports;
  const sysctls = planLocalnet(portmap, addresses, bridge);
  const elements = [...masquerading, ...ports.elements];
  return {
    ...(elements.length > 0 && { elements }),
    ...(ports.iptables.length > 0 && { iptables: ports.iptables }),
    ...(sysctls.length > 0 && { sysctls }),
  };
}
