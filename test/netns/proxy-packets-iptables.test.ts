import { openIptables } from '../../proxy/iptables/backend.ts';
import { missingIptables } from './missing.ts';
import { packets, policy } from './proxy-packets.ts';

packets({
  open: ({ namespace }) => openIptables({ policy, namespaceFd: namespace.fd, variant: 'nft' }),
  missing: missingIptables('nft'),
});
