import type { Problem } from '../../core/errors.ts';
import { refuseConfig } from '../config.ts';
import { CniError } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import type { NodeNetwork } from '../node-network.ts';
import type { InterfaceCall, InterfaceNetwork, InterfacePlugin, ParseInput } from '../plugin-type.ts';
import { type BridgeConfig, parseBridge, planBridge } from './bridge.ts';
import { chooseIpam } from './interface.ts';
import { type PtpConfig, parsePtp, planPtp } from './ptp.ts';

/** What type fairlead makes: `mode` "bridge" (also when absent) or "ptp", with what the node adds to it. */
export function parseMode(config: Fields, input: ParseInput): InterfacePlugin | CniError {
  const problems: Problem[] = [];
  const mode = new FieldReader(config, problems).text('mode') ?? 'bridge';
  if (mode !== 'bridge' && mode !== 'ptp' && problems.length === 0) {
    problems.push({ path: 'mode', message: `must be "bridge" or "ptp", not ${JSON.stringify(mode)}` });
  }
  const refused = refuseConfig(problems);
  if (refused !== undefined) return refused;
  if (mode === 'ptp') {
    const parsed = parsePtp(config, input, 'fairlead');
    if (parsed instanceof CniError) return parsed;
    return { kind: 'interface', network: (node) => onNode(parsed, node, planPtp) };
  }
  const parsed = parseBridge(config, input, 'fairlead');
  if (parsed instanceof CniError) return parsed;
  return { kind: 'interface', network: (node) => onNode(withName(parsed, node), node, planBridge) };
}

function withName(config: BridgeConfig, node: NodeNetwork | undefined): BridgeConfig {
  return { ...config, bridge: config.bridge ?? node?.name };
}

function onNode<C extends BridgeConfig | PtpConfig>(
  config: C,
  node: NodeNetwork | undefined,
  plan: (config: C, call: InterfaceCall) => ReturnType<InterfaceNetwork['plan']>,
): InterfaceNetwork | CniError {
  const ipam = chooseIpam(config.ipam, node);
  if (ipam instanceof CniError) return ipam;
  const known: C = { ...config, ipam, mtuBytes: config.mtuBytes ?? node?.mtuBytes };
  return { ipam, plan: (call) => plan(known, call) };
}
