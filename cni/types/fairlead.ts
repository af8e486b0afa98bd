import { CniError } from '../error.ts';
import type { Fields } from '../fields.ts';
import { joinRows, type PartRows } from '../part.ts';
import type { InterfaceCall, InterfaceNetwork, Planned, PlannedPair, PluginType } from '../plugin-type.ts';
import { type BandwidthConfig, parseBandwidth, planBandwidth } from './bandwidth.ts';
import { parseMode } from './mode.ts';
import { type PortmapConfig, parsePortmap, planLocalnet, planPortmap, podAddresses } from './portmap.ts';

/** What other plugins of a chain would do. */
interface Extras {
  readonly portmap: PortmapConfig;
  readonly bandwidth: BandwidthConfig;
}

/**
 * The whole chain in one call: an interface with addresses of the node's own subnets unless the configuration has
 * others, masquerading (`ipMasq`), host ports and limits of bandwidth (`runtimeConfig`).
 */
export const fairleadType: PluginType = {
  kind: 'interface',
  parse(config, input) {
    const extras = parseExtras(config);
    if (extras instanceof CniError) return extras;
    const plugin = parseMode(config, input);
    if (plugin instanceof CniError) return plugin;
    return {
      kind: 'interface',
      network(node) {
        const network = plugin.network(node);
        if (network instanceof CniError) return network;
        return { ...network, plan: (call) => planFairlead(extras, network, call) };
      },
    };
  },
};

function parseExtras(config: Fields): Extras | CniError {
  const portmap = parsePortmap(config);
  if (portmap instanceof CniError) return portmap;
  const bandwidth = parseBandwidth(config);
  return bandwidth instanceof CniError ? bandwidth : { portmap, bandwidth };
}

function isNothing({ portmap, bandwidth }: Extras): boolean {
  return portmap.mappings.length === 0 && bandwidth.ingress === undefined && bandwidth.egress === undefined;
}

function planFairlead(
  extras: Extras,
  network: InterfaceNetwork,
  call: InterfaceCall,
): PlannedPair | CniError {
  const pair = network.plan(call);
  if (pair instanceof CniError || isNothing(extras)) return pair;
  return { ...pair, rest: () => withExtras(extras, pair.rest(), call) };
}

function withExtras(extras: Extras, planned: Planned | CniError, call: InterfaceCall): Planned | CniError {
  if (planned instanceof CniError) return planned;
  const added = planExtras(extras, planned, call);
  if (added instanceof CniError) return added;
  return { ...planned, rows: joinRows(planned.rows, added) };
}

function planExtras(
  { portmap, bandwidth }: Extras,
  { rows: { attachment }, bridge, result }: Planned,
  { id }: InterfaceCall,
): PartRows | CniError {
  const name = attachment?.hostName ?? '';
  const peer = { index: 0, name, mtuBytes: attachment?.mtuBytes };
  const limits = planBandwidth(bandwidth, { ...id, previous: result, peer });
  if (limits instanceof CniError) return limits;
  const addresses = podAddresses(result, id.ifname);
  const ports = planPortmap(portmap, addresses);
  if (ports instanceof CniError) return ports;
  return { ...limits, ...ports, sysctls: planLocalnet(portmap, addresses, bridge?.bridge ?? name) };
}
