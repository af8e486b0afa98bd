import { type Cidr, cidrsOverlap, type Family, familyOf, type Ip } from '../../core/address.ts';
import type { DetectLocal, NodePortIps, ProxyPolicy } from '../policy.ts';
import type { Rule } from './rule.ts';

/** What the rules of one family are made with, besides the services. */
export interface RuleContext {
  readonly family: Family;
  readonly masqueradeAll: boolean;
  /** Matches of packets that come from a pod: any one of them is enough. Empty: nothing tells. */
  readonly fromPods: readonly Pick<Rule, 'source' | 'input'>[];
  /** The masquerading mark, as `0x4000`. */
  readonly mark: string;
  readonly localhostNodePorts: boolean;
  /** Drop packets that connection tracking finds invalid: masqueraded flows would get a reset for them. */
  readonly dropsInvalid: boolean;
}

const LOOPBACK = '127.0.0.0/8' as Cidr;

/** Throws TypeError for a policy that cannot be written as rules. */
export function ruleContext(family: Family, policy: ProxyPolicy, dropsInvalid: boolean): RuleContext {
  return {
    family,
    masqueradeAll: policy.masqueradeAll,
    fromPods: podMatches(policy.detectLocal, family),
    mark: markOf(policy.masqueradeBit),
    localhostNodePorts: family === 4 && opensLocalhost(policy),
    dropsInvalid,
  };
}

function markOf(bit: number): string {
  if (Number.isInteger(bit) && bit >= 0 && bit < 32) return `0x${(2 ** bit).toString(16)}`;
  throw new TypeError(`masqueradeBit ${bit}: a number from 0 to 31 is expected`);
}

function podMatches(detectLocal: DetectLocal, family: Family): RuleContext['fromPods'] {
  switch (detectLocal.mode) {
    case 'none':
      return [];
    case 'cidrs':
      return detectLocal.cidrs.filter((cidr) => familyOf(cidr) === family).map((cidr) => ({ source: cidr }));
    case 'bridge':
      return [{ input: checkInterface(detectLocal.name, 'name') }];
    case 'interfacePrefix':
      return [{ input: `${checkInterface(detectLocal.prefix, 'prefix')}+` }];
  }
}

const INTERFACE_NAME_MAX = 15;

function checkInterface(name: string, field: string): string {
  if (name.length <= INTERFACE_NAME_MAX && /^[\w.:@-]+$/.test(name)) return name;
  throw new TypeError(`detectLocal.${field} "${name}": the name of an interface is expected`);
}

/** Whether 127.0.0.1 is among the addresses of node ports: "primary" never is it. */
function opensLocalhost({ localhostNodePorts, nodePortAddresses }: ProxyPolicy): boolean {
  if (!localhostNodePorts || nodePortAddresses === 'primary') return false;
  const own = nodePortAddresses.filter((cidr) => familyOf(cidr) === 4);
  return own.length === 0 || own.some((cidr) => cidrsOverlap(cidr, LOOPBACK));
}

/** The matches of packets to the addresses that node ports are open on. */
export function nodePortMatches(
  ips: NodePortIps,
  { family, localhostNodePorts }: RuleContext,
): readonly Pick<Rule, 'destination' | 'match'>[] {
  const match = '-m addrtype --dst-type LOCAL';
  if (ips === 'all') {
    if (family === 6) return [{ destination: '! ::1/128', match }];
    return [{ destination: localhostNodePorts ? undefined : `! ${LOOPBACK}`, match }];
  }
  const hosts = ips.filter((ip) => !isLoopback(ip)).map((ip) => `${ip}/${family === 4 ? 32 : 128}`);
  return [...new Set(hosts), ...(localhostNodePorts ? [LOOPBACK] : [])].map((destination) => ({
    destination,
  }));
}

function isLoopback(ip: Ip): boolean {
  return ip === '::1' || ip.startsWith('127.');
}
