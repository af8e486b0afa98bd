import { type MonitorOptions, monitor } from './netlink/monitor.ts';
import {
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV4_NETCONF,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_IPV4_RULE,
  RTNLGRP_IPV6_IFADDR,
  RTNLGRP_IPV6_NETCONF,
  RTNLGRP_IPV6_ROUTE,
  RTNLGRP_IPV6_RULE,
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
} from './netlink/route/rtnetlink.ts';

const groups = [
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV6_IFADDR,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_IPV6_ROUTE,
  RTNLGRP_IPV4_RULE,
  RTNLGRP_IPV6_RULE,
  RTNLGRP_IPV4_NETCONF,
  RTNLGRP_IPV6_NETCONF,
];

/**
 * Says that links, addresses, neighbours, routes, rules or the parameters of forwarding (ip_forward, rp_filter…)
 * changed, by whomever. However much changed since the last answer is one answer. Watching begins with this call; it ends with the signal or with `break`.
 */
export function watchKernel(options: Pick<MonitorOptions, 'namespaceFd' | 'signal'> = {}): KernelWatch {
  const events = monitor(groups, options);
  return {
    async *[Symbol.asyncIterator]() {
      for await (const { kind } of events) yield kind === 'overrun' ? kind : 'changed';
    },
    [Symbol.dispose]: () => events[Symbol.dispose](),
  };
}

export interface KernelWatch extends AsyncIterable<'changed' | 'overrun'>, Disposable {}
