import { IpvsMissingError, IpvsSocket } from '../../kernel/ipvs-socket.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { removeAllModes } from '../../proxy/cleanup.ts';
import { openIpvs } from '../../proxy/ipvs/backend.ts';
import { conformance, inNewNamespace } from './proxy-conformance.ts';

async function missingIpvs(name: string): Promise<string | undefined> {
  using namespace = openNamespace(`/run/netns/${name}`);
  try {
    using _ = await IpvsSocket.open({ namespaceFd: namespace.fd });
    return undefined;
  } catch (error) {
    if (error instanceof IpvsMissingError) return error.message;
    throw error;
  }
}

/* Runs where there is IPVS: `npm run test:vm -- test/netns/proxy-conformance-ipvs.test.ts`. */
conformance({
  name: 'ipvs',
  open: ({ namespace, policy }) =>
    // Long enough for an answer on a busy machine, and short enough to be waited for.
    openIpvs({ namespaceFd: namespace.fd, policy, settings: { udpTimeoutMs: 10_000 } }),
  remove: async ({ namespace }) => {
    await removeAllModes({ namespaceFd: namespace.fd });
  },
  missing: await inNewNamespace(missingIpvs),
  // docs/proxy.md says why.
  differs: {
    hasOneListForAll: true,
    masqueradesNode: true,
    keepsByFrontend: true,
    // A template of persistence that still has connections when its time is over gets another minute.
    forgetsAfterMs: 65_000,
  },
});
