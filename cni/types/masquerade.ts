import { familyOf, type HostCidr, networkOf } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import { cniSets } from '../nft-layout.ts';
import { scopeElements } from './scope.ts';

/**
 * Whether a bridge or ptp network masquerades (`ipMasq`). `ipMasqBackend` may name either backend: what packets get
 * is the same, and the rules are those of nftables always.
 */
export function parseMasquerade(config: Fields): boolean | CniError {
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const wanted = reader.flag('ipMasq') ?? false;
  const backend = reader.text('ipMasqBackend');
  if (problems.length > 0) {
    const text = problems.map(({ path, message }) => `${path}: ${message}`).join('; ');
    return new CniError(cniCode.invalidConfig, `failed to load netconf: ${text}`);
  }
  if (wanted && backend !== undefined && backend !== 'iptables' && backend !== 'nftables') {
    return new CniError(cniCode.invalidConfig, `unknown ipmasq backend ${JSON.stringify(backend)}`);
  }
  return wanted;
}

/**
 * What the pod sends beyond its own subnets leaves with the node's address, multicast excepted. Two rows for each
 * address: who is masqueraded, and where to its subnet's pods are not.
 */
export function planMasquerade(addresses: readonly HostCidr[]): NftElement[] {
  return addresses.flatMap((address) => {
    const { masquerade, masqueradeNear } = cniSets(familyOf(address));
    const subnet = networkOf(address);
    return scopeElements({ pods: masquerade, ranges: masqueradeNear }, address, [subnet]);
  });
}
