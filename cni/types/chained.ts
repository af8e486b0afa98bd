import { families, ipOf } from '../../core/address.ts';
import { nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { CniError, cniCode } from '../error.ts';
import { cniSets } from '../nft-layout.ts';
import { type PartRows, rowsOf } from '../part.ts';
import type { ChainedCall, Peer, Planned, PluginType } from '../plugin-type.ts';
import type { Result } from '../result.ts';
import { readSmallFile } from '../small-file.ts';
import { leadsElsewhere } from '../wanted.ts';
import { addBandwidthInterface, type BandwidthConfig, parseBandwidth, planBandwidth } from './bandwidth.ts';
import { parseFirewall, planFirewall } from './firewall.ts';
import {
  type PodAddresses,
  type PortmapConfig,
  type PortmapRows,
  parsePortmap,
  planLocalnet,
  planPortmap,
  podAddresses,
} from './portmap.ts';
import {
  applyTuning,
  parseAllowlist,
  parseTuning,
  planTuning,
  type TuningConfig,
  tuningAllowlistPath,
} from './tuning.ts';

/* The plugins that add to an interface of another one, and what they must ask the kernel for that. */

export const portmapType: PluginType = {
  kind: 'chained',
  parse(config) {
    const parsed = parsePortmap(config);
    if (parsed instanceof CniError) return parsed;
    return { kind: 'chained', plan: (call) => planPorts(parsed, call) };
  },
};

async function planPorts(config: PortmapConfig, call: ChainedCall): Promise<Planned | CniError> {
  const { previous, id } = call;
  const addresses = previous && podAddresses(previous, id.ifname);
  const rows = planPortmap(config, addresses);
  if (rows instanceof CniError) return rows;
  if (seesOthers(rows, call)) {
    const text =
      'another portmap of this interface has other values of snat or masqAll, which are of the pod';
    return new CniError(cniCode.invalidConfig, text);
  }
  if (previous === undefined || addresses === undefined || config.mappings.length === 0) {
    return passThrough(previous, rows);
  }
  const device = await deviceTo(addresses, call);
  const sysctls = device === undefined ? [] : planLocalnet(config, addresses, device);
  return passThrough(previous, { ...rows, sysctls });
}

/** Whom the pod sees as the node is one thing for all its host ports. */
function seesOthers({ elements }: PortmapRows, { earlier }: ChainedCall): boolean {
  const pods = elements.filter(({ set }) => families.some((family) => set === cniSets(family).hostportPods));
  return earlier.some((rows) => {
    const there = rowsOf(rows, 'elements');
    return pods.some((pod) => leadsElsewhere(there.get(nftElementKey(pod)) ?? pod, pod));
  });
}

/** The way to the pod: ours is known, another's the kernel knows. */
async function deviceTo(
  addresses: PodAddresses,
  { earlier, node }: ChainedCall,
): Promise<string | undefined> {
  const attachment = earlier.find((rows) => rows.attachment !== undefined)?.attachment;
  if (attachment !== undefined) return attachment.bridge ?? attachment.hostName;
  const address = families.map((family) => addresses[family]).find((one) => one !== undefined);
  return address === undefined ? undefined : node.deviceTo(ipOf(address));
}

export const bandwidthType: PluginType = {
  kind: 'chained',
  parse(config) {
    const parsed = parseBandwidth(config);
    if (parsed instanceof CniError) return parsed;
    return { kind: 'chained', plan: (call) => planLimits(parsed, call) };
  },
};

async function planLimits(config: BandwidthConfig, call: ChainedCall): Promise<Planned | CniError> {
  const { id, previous } = call;
  const isLimited = config.ingress !== undefined || config.egress !== undefined;
  const peer = isLimited ? await peerOf(call) : undefined;
  const rows = planBandwidth(config, { ...id, previous, peer });
  if (rows instanceof CniError) return rows;
  return passThrough(previous && addBandwidthInterface(previous, rows), rows);
}

async function peerOf({ earlier, namespaceFd, id, node }: ChainedCall): Promise<Peer | undefined> {
  const attachment = earlier.find((rows) => rows.attachment !== undefined)?.attachment;
  if (attachment === undefined) return node.peerOf(namespaceFd, id.ifname);
  return { index: 0, name: attachment.hostName, mtuBytes: attachment.mtuBytes };
}

export const tuningType: PluginType = {
  kind: 'chained',
  readsFiles: true,
  parse(config, { args, configText }) {
    const parsed = parseTuning(config, { args, configText, allowlist: readAllowlist() });
    if (parsed instanceof CniError) return parsed;
    return { kind: 'chained', plan: (call) => planSettings(parsed, call) };
  },
};

function readAllowlist(): readonly string[] | undefined {
  try {
    return parseAllowlist(readSmallFile(tuningAllowlistPath));
  } catch {
    return undefined;
  }
}

/** What is there before goes into the record with what is to be. */
async function planSettings(config: TuningConfig, call: ChainedCall): Promise<Planned | CniError> {
  const { id, namespaceFd, previous, node } = call;
  const rows = planTuning(config, { ifname: id.ifname, previous });
  if (rows instanceof CniError) return rows;
  const pod = await node.capture(namespaceFd, rows.pod);
  return passThrough(previous && applyTuning(previous, rows), { pod });
}

export const firewallType: PluginType = {
  kind: 'chained',
  parse(config) {
    const parsed = parseFirewall(config);
    if (parsed instanceof CniError) return parsed;
    return {
      kind: 'chained',
      async plan({ previous, node }) {
        const hasFirewalld = parsed.backend === undefined && (await node.hasFirewalld());
        const rows = planFirewall(parsed, previous, hasFirewalld);
        return rows instanceof CniError ? rows : passThrough(previous, rows);
      },
    };
  },
};

function passThrough(result: Result | undefined, rows: PartRows): Planned | CniError {
  if (result === undefined) return new CniError(cniCode.invalidConfig, 'Required prevResult missing');
  return { rows, result };
}
