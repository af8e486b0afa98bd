import { removeAllModes } from '../../proxy/cleanup.ts';
import { openIpvs } from '../../proxy/ipvs/backend.ts';
import { missingIpvs } from './missing-ipvs.ts';
import { conformance } from './proxy-conformance.ts';

/* Runs where there is IPVS: `npm run test:vm -- test/netns/proxy-conformance-ipvs.test.ts`. */
conformance({
  name: 'ipvs',
  open: ({ namespace, policy }) =>
    // Long enough for an answer on a busy machine, and short enough to be waited for.
    openIpvs({ namespaceFd: namespace.fd, policy, settings: { udpTimeoutMs: 10_000 } }),
  remove: async ({ namespace }) => {
    await removeAllModes({ namespaceFd: namespace.fd });
  },
  missing: await missingIpvs(),
  // docs/proxy.md says why.
  differs: {
    hasOneListForAll: true,
    masqueradesNode: true,
    keepsByFrontend: true,
    // A template of persistence that still has connections when its time is over gets another minute.
    forgetsAfterMs: 65_000,
  },
});
