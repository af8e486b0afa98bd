import { openNftables } from '../../proxy/nftables/backend.ts';
import { conformance } from './proxy-conformance.ts';
import { nft } from './proxy-lab.ts';

conformance({
  name: 'nftables',
  open: ({ namespace, policy }) => openNftables({ namespaceFd: namespace.fd, policy }),
  remove: async ({ namespaceName }) => {
    for (const family of ['ip', 'ip6'])
      await nft(namespaceName, ['delete', 'table', family, 'fairlead-proxy']);
  },
  differs: {},
});
