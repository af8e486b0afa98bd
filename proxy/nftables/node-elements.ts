import { type Cidr, type Family, familyOf } from '../../core/address.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { DetectLocal, NodeFacts } from '../policy.ts';
import { networkElement, nodeAddressElement } from './elements.ts';
import type { PodDetector } from './layout.ts';
import { outermost } from './source-groups.ts';

/** What tells pods of this family from others. Networks of the other family only tell nothing. */
export function podDetector(family: Family, detect: DetectLocal): PodDetector {
  switch (detect.mode) {
    case 'none':
      return 'nothing';
    case 'cidrs':
      return detect.cidrs.some((cidr) => familyOf(cidr) === family) ? 'networks' : 'nothing';
    case 'bridge':
      return { interfaceName: detect.name };
    case 'interfacePrefix':
      return { interfaceName: `${detect.prefix}*` };
  }
}

/** The elements of one family that come from the node and not from services. */
export function nodeElements(family: Family, detect: DetectLocal, facts: NodeFacts): NftElement[] {
  const nodePortIps = facts.nodePortIps[family];
  const pods = detect.mode === 'cidrs' ? detect.cidrs : [];
  const networks = (cidrs: readonly Cidr[]) => outermost(cidrs.filter((cidr) => familyOf(cidr) === family));
  return [
    ...(nodePortIps === 'all' ? [] : [...new Set(nodePortIps)]).map(nodeAddressElement),
    ...networks(pods).map((cidr) => networkElement('pod-networks', cidr)),
    // Behind services: their addresses are not dropped while the first ones are being written.
    ...networks(facts.serviceCidrs).map((cidr) => networkElement('service-networks', cidr)),
  ];
}
