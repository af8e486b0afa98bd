import type { AttachmentState } from '../../kernel/attachment-check.ts';
import type { Link } from '../../kernel/netlink/route/link.ts';
import type { Route } from '../../kernel/netlink/route/route.ts';
import { CniError, cniCode } from '../error.ts';
import type { Result, ResultInterface } from '../result.ts';
import type { BridgeNeeds } from './bridge.ts';

/** What an attachment is compared with. */
export interface Expected {
  /** CNI_NETNS as given. */
  readonly sandbox: string;
  readonly ifname: string;
  /** The end on the host. */
  readonly hostName: string;
  /** Undefined: the pod is routed. */
  readonly bridge?: Pick<BridgeNeeds, 'bridge' | 'promiscuous'> | undefined;
  /** `prevResult`: that of the last plugin of the chain, which may have changed what we made. */
  readonly previous: Result | undefined;
}

/** Set by somebody for good, not for as long as a bridge wants it. */
const IFF_PROMISC = 0x100;

/**
 * CHECK of an interface: everything that `prevResult` lists of ours must be there, and the pair must lie between
 * container and bridge. Undefined: all is well; else the first thing that is not.
 */
export function checkInterface(expected: Expected, state: AttachmentState): CniError | undefined {
  const { previous } = expected;
  if (previous === undefined) return new CniError(cniCode.invalidConfig, 'Required prevResult missing');
  const problem =
    checkBridge(expected, previous, state) ??
    checkPod(expected, previous, state) ??
    checkHost(expected, previous, state) ??
    checkAddresses(expected, previous, state) ??
    checkRoutes(previous, state);
  return problem === undefined ? undefined : new CniError(cniCode.internal, problem);
}

function checkBridge({ bridge }: Expected, previous: Result, state: AttachmentState): string | undefined {
  if (bridge === undefined) return undefined;
  const { bridge: name, promiscuous = false } = bridge;
  if (state.bridge === undefined) return `bridge ${name} not found`;
  if (state.bridge.kind !== 'bridge') return `${name} is not a bridge but ${state.bridge.kind ?? 'a device'}`;
  const isPromiscuous = ((state.bridge.flags ?? 0) & IFF_PROMISC) !== 0;
  if (isPromiscuous !== promiscuous) {
    return `bridge ${name}: promiscuous mode is ${isPromiscuous}, configured is ${promiscuous}`;
  }
  return checkMac(listed(previous, name, undefined), state.bridge);
}

function checkPod(
  { ifname, sandbox }: Expected,
  previous: Result,
  { pod }: AttachmentState,
): string | undefined {
  const known = previous.interfaces.filter(({ name }) => name === ifname);
  const own = listed(previous, ifname, sandbox);
  const [other] = known;
  if (own === undefined && other !== undefined) {
    return `sandbox ${other.sandbox ?? ''} of ${ifname} in prevResult is not ${sandbox}`;
  }
  if (pod === undefined) return `interface ${ifname} not found in ${sandbox}`;
  if (pod.kind !== 'veth') return `interface ${ifname} in ${sandbox} is not of type veth`;
  return checkMac(own, pod);
}

function checkHost(
  { hostName, bridge }: Expected,
  previous: Result,
  state: AttachmentState,
): string | undefined {
  const { host, pod } = state;
  if (host === undefined) return `interface ${hostName} not found on the host`;
  if (host.kind !== 'veth') return `interface ${hostName} is not of type veth`;
  if (host.linkIndex !== pod?.index || pod?.linkIndex !== host.index) {
    return `interface ${hostName} is not the other end of the container's interface`;
  }
  if (bridge !== undefined && host.masterIndex !== state.bridge?.index) {
    return `interface ${hostName} is no port of bridge ${bridge.bridge}`;
  }
  return checkMac(listed(previous, hostName, undefined), host);
}

function listed(previous: Result, name: string, sandbox: string | undefined): ResultInterface | undefined {
  return previous.interfaces.find((one) => one.name === name && (one.sandbox || undefined) === sandbox);
}

function checkMac(wanted: ResultInterface | undefined, { name, mac }: Link): string | undefined {
  if (wanted?.mac === undefined || wanted.mac === mac) return undefined;
  return `MAC address of ${name} is ${mac ?? 'missing'}, not ${wanted.mac}`;
}

function checkAddresses(
  { ifname, sandbox }: Expected,
  { ips, interfaces }: Result,
  { addresses }: AttachmentState,
): string | undefined {
  const isOwn = (index: number | undefined) => {
    const owner = index === undefined ? undefined : interfaces[index];
    return owner === undefined || (owner.name === ifname && owner.sandbox === sandbox);
  };
  const missing = ips.find(({ address, interface: index }) => isOwn(index) && !addresses.includes(address));
  return missing === undefined ? undefined : `address ${missing.address} not found on interface ${ifname}`;
}

function checkRoutes({ routes }: Result, { routes: there }: AttachmentState): string | undefined {
  const missing = routes.find((wanted) => !there.some((route) => leadsAs(wanted, route)));
  if (missing === undefined) return undefined;
  const by = missing.gateway === undefined ? '' : ` by ${missing.gateway}`;
  return `route to ${missing.destination}${by} not found`;
}

/** A result leaves out a gateway where any will do. */
function leadsAs({ destination, gateway }: Result['routes'][number], route: Route): boolean {
  if (route.destination !== destination) return false;
  const hops = route.nextHops ?? [route];
  return gateway === undefined || hops.some((hop) => hop.gateway === gateway);
}
