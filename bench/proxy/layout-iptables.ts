import { hash, type Layout } from './layout.ts';
import { type PlainService, POD_NETWORK, SERVICE_PORT, TARGET_PORT } from './world.ts';

const MARK = '0x4000';

/** kube-proxy's chains of iptables. Each change writes the dispatch of all services anew, and the changed chains. */
export const iptables: Layout = {
  *load(services) {
    yield* restoreText([...services], undefined);
  },
  *change(before, after, services) {
    yield* restoreText([...services], { before, after });
  },
};

const id = (kind: string, text: string) => `KUBE-${kind}-${hash(text, 16)}`;
const svc = ({ name }: PlainService) => id('SVC', name);
const sep = ({ name }: PlainService, ip: string) => id('SEP', `${name} ${ip}`);

function* restoreText(
  services: readonly PlainService[],
  change: { readonly before: PlainService; readonly after: PlainService } | undefined,
): Generator<string> {
  const written = change === undefined ? services : [change.after];
  const gone = change?.before.endpoints.filter((ip) => !change.after.endpoints.includes(ip)) ?? [];
  yield '*nat';
  for (const name of ['KUBE-SERVICES', 'KUBE-NODEPORTS', 'KUBE-POSTROUTING', 'KUBE-MARK-MASQ'])
    yield `:${name} - [0:0]`;
  for (const service of written) {
    yield `:${svc(service)} - [0:0]`;
    for (const ip of service.endpoints) yield `:${sep(service, ip)} - [0:0]`;
  }
  if (change !== undefined) for (const ip of gone) yield `:${sep(change.before, ip)} - [0:0]`;
  yield `-A KUBE-POSTROUTING -m mark ! --mark ${MARK}/${MARK} -j RETURN`;
  yield `-A KUBE-POSTROUTING -j MARK --xor-mark ${MARK}`;
  yield '-A KUBE-POSTROUTING -j MASQUERADE --random-fully';
  yield `-A KUBE-MARK-MASQ -j MARK --or-mark ${MARK}`;
  if (change === undefined) {
    for (const chain of ['PREROUTING', 'OUTPUT']) yield `-A ${chain} -j KUBE-SERVICES`;
    yield '-A POSTROUTING -j KUBE-POSTROUTING';
  }
  for (const service of services)
    yield `-A KUBE-SERVICES -d ${service.clusterIp}/32 -p tcp -m tcp --dport ${SERVICE_PORT} -j ${svc(service)}`;
  yield '-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS';
  for (const service of written) yield* serviceRules(service);
  if (change !== undefined) for (const ip of gone) yield `-X ${sep(change.before, ip)}`;
  yield 'COMMIT';
}

function* serviceRules(service: PlainService): Generator<string> {
  const { clusterIp, endpoints } = service;
  yield `-A ${svc(service)} ! -s ${POD_NETWORK} -d ${clusterIp}/32 -p tcp -m tcp --dport ${SERVICE_PORT} -j KUBE-MARK-MASQ`;
  for (const [index, ip] of endpoints.entries()) {
    const left = endpoints.length - index;
    const chance = left === 1 ? '' : `-m statistic --mode random --probability ${(1 / left).toFixed(10)} `;
    yield `-A ${svc(service)} ${chance}-j ${sep(service, ip)}`;
  }
  for (const ip of endpoints) {
    yield `-A ${sep(service, ip)} -s ${ip}/32 -j KUBE-MARK-MASQ`;
    yield `-A ${sep(service, ip)} -p tcp -m tcp -j DNAT --to-destination ${ip}:${TARGET_PORT}`;
  }
}
