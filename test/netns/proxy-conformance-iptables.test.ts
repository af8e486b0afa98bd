import { openIptables } from '../../proxy/iptables/backend.ts';
import { removeIptables } from '../../proxy/iptables/remove.ts';
import { missingIptables } from './missing.ts';
import { conformance } from './proxy-conformance.ts';

conformance({
  name: 'iptables',
  missing: missingIptables('nft'),
  open: ({ namespace, policy }) =>
    openIptables({ namespaceFd: namespace.fd, policy, variant: 'nft', checkIntervalMs: 0 }),
  remove: async ({ namespace }) => {
    await removeIptables({ namespaceFd: namespace.fd });
  },
  differs: { leavesUnusedAddresses: true, servesLocalhost: true, lacksMaglev: 'it has no such rules' },
});
