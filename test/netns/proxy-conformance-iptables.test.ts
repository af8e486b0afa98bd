import { openIptables } from '../../proxy/iptables/backend.ts';
import { removeIptables } from '../../proxy/iptables/remove.ts';
import { conformance, inNewNamespace } from './proxy-conformance.ts';
import { missingIptables } from './proxy-iptables-lab.ts';

conformance({
  name: 'iptables',
  missing: await inNewNamespace((name) => missingIptables(name, 'nft')),
  open: ({ namespace, policy }) =>
    openIptables({ namespaceFd: namespace.fd, policy, variant: 'nft', checkIntervalMs: 0 }),
  remove: async ({ namespace }) => {
    await removeIptables({ namespaceFd: namespace.fd });
  },
  differs: { leavesUnusedAddresses: true, servesLocalhost: true, lacksMaglev: 'it has no such rules' },
});
