import { closeSync, openSync } from 'node:fs';
import { isMissing } from '../kernel/errors.ts';
import { getLinkMessage } from '../kernel/netlink/route/link.ts';
import { CniError, cniCode } from './error.ts';
import type { KernelTables } from './part-tables.ts';
import type { VlanGateway } from './types/bridge.ts';

/** Makes the host's own end in a VLAN of a bridge: a pair like a pod's, with both ends on the node. Throws CniError. */
export async function makeVlanGateway(
  { device, attachment }: VlanGateway,
  { node, socket }: Pick<KernelTables, 'node' | 'socket'>,
  namespaceFd: number | undefined,
): Promise<void> {
  const [missing] = await socket.submit([getLinkMessage({ name: device })]);
  if (missing === undefined) return;
  if (!isMissing(missing)) throw gatewayError(device, missing);
  const own = namespaceFd ?? openSync('/proc/self/ns/net', 'r');
  try {
    const wanted = { ...attachment, pod: attachment.pod && { ...attachment.pod, namespaceFd: own } };
    const [failure] = await node.attachment.write([{ kind: 'create', key: attachment.hostName, wanted }]);
    if (failure !== undefined) throw gatewayError(device, failure.error);
    // As on a bridge: no pod is believed that it is a router. Without IPv6 there is no such parameter.
    const key = `net/ipv6/conf/${device}/accept_ra`;
    const [unset] = await node.sysctls.write([{ kind: 'create', key, wanted: { key, value: '0' } }]);
    if (unset !== undefined && !isMissing(unset.error)) throw gatewayError(device, unset.error);
  } finally {
    if (namespaceFd === undefined) closeSync(own);
  }
}

function gatewayError(device: string, error: Error): CniError {
  return new CniError(cniCode.internal, `failed to set up "${device}": ${error.message}`);
}
