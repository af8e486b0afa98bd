import { openIpvs } from '../../proxy/ipvs/backend.ts';
import { missingIpvs } from './missing-ipvs.ts';
import { packets, policy } from './proxy-packets.ts';

/* Where there is IPVS: `npm run test:vm -- test/netns/proxy-packets-ipvs.test.ts`. */
packets({
  open: ({ namespace }) => openIpvs({ policy, namespaceFd: namespace.fd }),
  missing: await missingIpvs(),
  drains: true,
});
