import { openIptables } from '../../proxy/iptables/backend.ts';
import { packets, policy } from './proxy-packets.ts';

packets({ open: ({ namespace }) => openIptables({ policy, namespaceFd: namespace.fd, variant: 'nft' }) });
