import { CniError, cniCode } from './error.ts';
import { type Fields, foldKeys, isObject } from './fields.ts';
import type { AttachmentId } from './part.ts';

/** One that the runtime knows; the network is that of the call. */
export type ValidAttachment = Pick<AttachmentId, 'containerId' | 'ifname'>;

/** The key of the specification 1.1.0, and the one of its drafts that runtimes send too. */
const listKeys = ['cni.dev/valid-attachments', 'cni.dev/attachments'];

/**
 * What a GC call says is in use. Undefined: it says nothing, and nothing may be removed. An empty list says that
 * nothing is in use.
 */
export function parseValidAttachments(config: Fields): readonly ValidAttachment[] | undefined | CniError {
  const key = listKeys.find((name) => config.has(name));
  if (key === undefined) return undefined;
  const list = config.get(key);
  if (!Array.isArray(list)) return refuse(`${key}: must be a list, not ${JSON.stringify(list)}`);
  const valid: ValidAttachment[] = [];
  for (const [index, entry] of list.entries()) {
    const fields: Fields = isObject(entry) ? foldKeys(entry) : new Map();
    const containerId = fields.get('containerid');
    const ifname = fields.get('ifname');
    if (typeof containerId !== 'string' || typeof ifname !== 'string') {
      return refuse(`${key}[${index}]: must have containerID and ifname, not ${JSON.stringify(entry)}`);
    }
    valid.push({ containerId, ifname });
  }
  return valid;
}

function refuse(message: string): CniError {
  return new CniError(cniCode.invalidConfig, `invalid network config: ${message}`);
}

/**
 * Those of the network that are not in use. One without an interface's name (old files of host-local have none) is
 * in use as long as its container has any interface in this network.
 */
export function staleAttachments<Id extends AttachmentId>(
  ids: Iterable<Id>,
  network: string,
  valid: readonly ValidAttachment[],
): Id[] {
  const inUse = new Set(
    valid.flatMap(({ containerId, ifname }) => [`${containerId}/${ifname}`, `${containerId}/`]),
  );
  return [...ids].filter((id) => id.network === network && !inUse.has(`${id.containerId}/${id.ifname}`));
}
