import { CniError } from './error.ts';
import type { ForeignPlugin } from './plugin-type.ts';
import { pluginTypes } from './plugin-types.ts';
import type { AttachmentRequest } from './request.ts';
import { delegateFlannel, readScratch } from './types/flannel.ts';
import { foreignIpamType } from './types/interface.ts';

type Named = Pick<AttachmentRequest, 'type' | 'config' | 'configText' | 'containerId'>;

/**
 * The program that the configuration of a DEL names: for the addresses, or for all of the interface (flannel's
 * delegate). Whatever else is wrong with the configuration does not matter. Undefined: none.
 */
export function foreignOf(named: Named): ForeignPlugin | undefined {
  const called = named.type === 'flannel' ? delegateOf(named) : named;
  if (called === undefined) return undefined;
  const { type, config, configText } = called;
  const own = pluginTypes.get(type);
  if (own === undefined) return named.type === 'flannel' ? { kind: 'foreign', type, configText } : undefined;
  const ipam = own.kind === 'interface' ? foreignIpamType(config) : undefined;
  return ipam === undefined ? undefined : { kind: 'foreign', type: ipam, configText };
}

/** As flannel's own plugin told it, if it did; else as it would be told now. */
function delegateOf({ config, containerId }: Named) {
  const before = readScratch(config, containerId);
  if (before !== undefined) return before;
  const now = delegateFlannel(config);
  return now instanceof CniError ? undefined : now;
}
