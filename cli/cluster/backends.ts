import { randomBytes } from 'node:crypto';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';
import { applyBatch } from './lab.ts';

/** Those that carry packets between the nodes of a cluster. */
export const BACKENDS = ['vxlan', 'host-gw', 'udp', 'ipip', 'wireguard'] as const;
export type Backend = (typeof BACKENDS)[number];

/** Links that a backend makes, as `ip link add` names them. */
const links: Readonly<Record<Backend, readonly string[]>> = {
  vxlan: ['type vxlan id 1 dstport 8472'],
  'host-gw': [],
  udp: [],
  ipip: ['type ipip external', 'type ip6tnl external'],
  wireguard: ['type wireguard'],
};

/** Why this machine's kernel cannot have a cluster with this backend; undefined: it can. */
export async function backendProblem(backend: Backend): Promise<string | undefined> {
  if (links[backend].length === 0) return undefined;
  const namespace = `fl-probe-${randomBytes(3).toString('hex')}`;
  createNamespace(`/run/netns/${namespace}`);
  try {
    await applyBatch({ namespace, lines: links[backend].map((link, n) => `link add probe${n} ${link}`) });
    return undefined;
  } catch (error) {
    const [why] = String((error as { stderr?: unknown }).stderr ?? '').split('\n');
    return `backend ${backend}: this machine's kernel has no such links (${links[backend].join(', ')}): ${why}`;
  } finally {
    deleteNamespace(`/run/netns/${namespace}`);
  }
}
