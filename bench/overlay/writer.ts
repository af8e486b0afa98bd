import { EtcdClient } from '../../daemon/etcd.ts';
import { renderLeaseValue, subnetKey } from '../../daemon/etcd-record.ts';
import { KubeClient } from '../../kube/client.ts';
import { NODES } from '../../kube/types.ts';
import { type Backend, nodeOf, type Peer, peerOf } from './peers.ts';

// Plays all other nodes, in the namespace of the store. Its argument is JSON; each message to it is answered.

export interface WriterArguments {
  readonly kind: 'etcd' | 'kubernetes';
  readonly url: string;
  readonly token?: string | undefined;
  readonly backend: Backend;
}

export type Order = { readonly join: readonly number[] } | { readonly leave: number };

export interface Done {
  /** When the first of it was sent: nanoseconds of the machine's monotonic clock. */
  readonly sentNs: string;
  readonly error?: string;
}

interface Writer {
  join(peers: readonly Peer[]): Promise<void>;
  leave(peer: Peer): Promise<void>;
}

const prefix = '/coreos.com/network/subnets/';
/** etcd takes no more in one transaction. */
const etcdWritesMax = 128;
const postsAtOnce = 16;

function etcdWriter(url: string): Writer {
  const client = new EtcdClient({ endpoints: [url] });
  const { signal } = new AbortController();
  const keyOf = ({ subnet }: Peer) => prefix + subnetKey({ 4: subnet });
  return {
    async join(peers) {
      for (let at = 0; at < peers.length; at += etcdWritesMax) {
        const writes = peers.slice(at, at + etcdWritesMax).map((peer) => {
          return { put: keyOf(peer), value: renderLeaseValue(peer.attributes), etcdLease: '0' };
        });
        await client.transact([], writes, signal);
      }
    },
    leave: async (peer) => void (await client.transact([], [{ delete: keyOf(peer) }], signal)),
  };
}

function kubernetesWriter(server: string, token: string | undefined): Writer {
  const client = new KubeClient({ server, ...(token === undefined ? {} : { token }) });
  return {
    async join(peers) {
      const waiting = peers.map(nodeOf);
      const post = async () => {
        for (let node = waiting.shift(); node !== undefined; node = waiting.shift())
          await client.create(NODES, node);
      };
      await Promise.all(Array.from({ length: postsAtOnce }, post));
    },
    leave: async ({ name }) => void (await client.delete(NODES, name)),
  };
}

const { kind, url, token, backend } = JSON.parse(process.argv[2] ?? '') as WriterArguments;
const writer = kind === 'etcd' ? etcdWriter(url) : kubernetesWriter(url, token);

process.on('message', async (order: Order) => {
  const sentNs = String(process.hrtime.bigint());
  try {
    if ('join' in order) await writer.join(order.join.map((n) => peerOf(n, backend)));
    else await writer.leave(peerOf(order.leave, backend));
    process.send?.({ sentNs } satisfies Done);
  } catch (error) {
    process.send?.({ sentNs, error: (error as Error).message } satisfies Done);
  }
});
process.once('disconnect', () => process.exit());
