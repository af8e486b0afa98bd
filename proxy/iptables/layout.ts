import type { NodePortIps } from '../policy.ts';
import { nodePortMatches, type RuleContext } from './context.ts';
import { type Chain, type PlacedRule, renderRule, type TableName } from './rule.ts';

/*
 * The way of a connection's first packet, with chains and jumps as kube-proxy has them
 * (pkg/proxy/iptables/proxier.go, v1.36):
 *
 *   nat PREROUTING, OUTPUT → KUBE-SERVICES: one rule for each address and port
 *       → KUBE-SVC-… (a cluster IP), KUBE-EXT-… (an external one), KUBE-FW-… (one with source ranges) → KUBE-EXT-…
 *       last: to the node itself → KUBE-NODEPORTS: one rule for each node port → KUBE-EXT-…
 *       KUBE-EXT-… marks for masquerading, takes the short cut of pods and of the node → KUBE-SVC-… or KUBE-SVL-…
 *       KUBE-SVC-…, KUBE-SVL-… mark what comes from outside, draw an endpoint → KUBE-SEP-… marks hairpins, DNAT
 *   filter INPUT, FORWARD, OUTPUT → what kept its destination because it has no endpoint is refused or dropped in
 *       KUBE-SERVICES and KUBE-EXTERNAL-SERVICES, what no source range let through in KUBE-PROXY-FIREWALL; the
 *       questions of load balancers are let in by KUBE-NODEPORTS
 *   nat POSTROUTING → KUBE-POSTROUTING masquerades what is marked
 */

/** The rules that stand for services: their order makes no difference, they stand before all others there. */
export const dispatchChains = [
  { table: 'filter', name: 'KUBE-SERVICES' },
  { table: 'filter', name: 'KUBE-EXTERNAL-SERVICES' },
  { table: 'filter', name: 'KUBE-PROXY-FIREWALL' },
  { table: 'filter', name: 'KUBE-NODEPORTS' },
  { table: 'nat', name: 'KUBE-SERVICES' },
  { table: 'nat', name: 'KUBE-NODEPORTS' },
] as const satisfies readonly Omit<Chain, 'rules'>[];

/** Gone when somebody flushed a table: every table has one, with one rule in it. */
export const CANARY = 'KUBE-PROXY-CANARY';
export const tables = ['filter', 'nat', 'mangle'] as const satisfies readonly TableName[];

/** Rules are tried in it; it is there for a moment only. */
export const PROBE = 'KUBE-PROXY-PROBE';

/** Sources outside of several pod networks: one rule cannot say that. */
export const MARK_OUTSIDE = 'KUBE-MARK-OUTSIDE';
export const MARK = 'KUBE-MARK-MASQ';
export const POSTROUTING = 'KUBE-POSTROUTING';

/** Chains that are the same whatever services there are, in full. */
export function fixedChains(context: RuleContext): Chain[] {
  return [
    { table: 'filter', name: 'KUBE-FORWARD', rules: forwardRules(context) },
    { table: 'nat', name: MARK, rules: [`-j MARK --set-xmark ${context.mark}/${context.mark}`] },
    ...outsideChain(context),
    { table: 'nat', name: POSTROUTING, rules: postroutingRules(context) },
    ...tables.map((table) => ({ table, name: CANARY, rules: ['-j RETURN'] })),
  ];
}

function forwardRules({ mark, dropsInvalid }: RuleContext): string[] {
  const rules = [
    renderRule({
      comment: 'kubernetes forwarding rules',
      match: `-m mark --mark ${mark}/${mark}`,
      target: 'ACCEPT',
    }),
    renderRule({
      comment: 'kubernetes forwarding conntrack rule',
      match: '-m conntrack --ctstate RELATED,ESTABLISHED',
      target: 'ACCEPT',
    }),
  ];
  return dropsInvalid ? ['-m conntrack --ctstate INVALID -j DROP', ...rules] : rules;
}

/** The mark goes when it is obeyed: a packet in a tunnel would be masqueraded once more on its second way. */
function postroutingRules({ mark }: RuleContext): string[] {
  const comment = 'kubernetes service traffic requiring SNAT';
  return [
    `-m mark ! --mark ${mark}/${mark} -j RETURN`,
    `-j MARK --set-xmark ${mark}/0x0`,
    renderRule({ comment, target: 'MASQUERADE --random-fully' }),
  ];
}

function outsideChain({ fromPods }: RuleContext): Chain[] {
  if (fromPods.length < 2) return [];
  const rules = [
    ...fromPods.map((pods) => renderRule({ ...pods, target: 'RETURN' })),
    renderRule({ target: MARK }),
  ];
  return [{ table: 'nat', name: MARK_OUTSIDE, rules }];
}

/** The last rules of nat KUBE-SERVICES. */
export function nodePortJumps(ips: NodePortIps, context: RuleContext): PlacedRule[] {
  const comment = 'kubernetes service nodeports; NOTE: this must be the last rule in this chain';
  return nodePortMatches(ips, context).map((match) => ({
    table: 'nat',
    chain: 'KUBE-SERVICES',
    rule: renderRule({ ...match, comment, target: 'KUBE-NODEPORTS' }),
  }));
}

/** Kubelet has the same chain: it is made when it is not there, never emptied, and never taken away. */
export const FIREWALL = 'KUBE-FIREWALL';

/**
 * With route_localnet neighbours could send to 127.0.0.1 (CVE-2020-8558): only what was translated may come in.
 * Where node ports are not open on localhost there is no such rule.
 */
export function firewallRules({ localhostNodePorts }: RuleContext): PlacedRule[] {
  return localhostNodePorts ? [{ table: 'filter', chain: FIREWALL, rule: firewallRule }] : [];
}

const firewallRule = renderRule({
  source: '! 127.0.0.0/8',
  destination: '127.0.0.0/8',
  comment: 'block incoming localnet connections',
  match: '-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT',
  target: 'DROP',
});

/**
 * From the kernel's chains to ours, in front of all that others have there. The later one comes first.
 * Other than in kube-proxy the node's own connections are checked against KUBE-EXTERNAL-SERVICES, too.
 */
export function jumps(context: RuleContext): PlacedRule[] {
  const isNew = '-m conntrack --ctstate NEW';
  const external = 'kubernetes externally-visible service portals';
  const portals = 'kubernetes service portals';
  const firewall = 'kubernetes load balancer firewall';
  const toFirewall = firewallRules(context).length === 0 ? [] : (['INPUT', 'OUTPUT'] as const);
  return [
    jump('filter', 'INPUT', 'KUBE-EXTERNAL-SERVICES', external, isNew),
    jump('filter', 'FORWARD', 'KUBE-EXTERNAL-SERVICES', external, isNew),
    jump('filter', 'OUTPUT', 'KUBE-EXTERNAL-SERVICES', external, isNew),
    jump('filter', 'INPUT', 'KUBE-NODEPORTS', 'kubernetes health check service ports'),
    jump('filter', 'FORWARD', 'KUBE-SERVICES', portals, isNew),
    jump('filter', 'OUTPUT', 'KUBE-SERVICES', portals, isNew),
    jump('filter', 'FORWARD', 'KUBE-FORWARD', 'kubernetes forwarding rules'),
    jump('filter', 'INPUT', 'KUBE-PROXY-FIREWALL', firewall, isNew),
    jump('filter', 'OUTPUT', 'KUBE-PROXY-FIREWALL', firewall, isNew),
    jump('filter', 'FORWARD', 'KUBE-PROXY-FIREWALL', firewall, isNew),
    ...toFirewall.map((from) => jump('filter', from, FIREWALL)),
    jump('nat', 'OUTPUT', 'KUBE-SERVICES', portals),
    jump('nat', 'PREROUTING', 'KUBE-SERVICES', portals),
    jump('nat', 'POSTROUTING', POSTROUTING, 'kubernetes postrouting rules'),
  ];
}

function jump(table: TableName, chain: string, target: string, comment?: string, isNew?: string): PlacedRule {
  const rule = renderRule({ comment, target });
  return { table, chain, rule: isNew === undefined ? rule : `${isNew} ${rule}` };
}

/** Every chain of ours that is not one service port's. */
export const ownChains: Readonly<Record<TableName, readonly string[]>> = {
  filter: [
    'KUBE-SERVICES',
    'KUBE-EXTERNAL-SERVICES',
    'KUBE-NODEPORTS',
    'KUBE-FORWARD',
    'KUBE-PROXY-FIREWALL',
    CANARY,
    PROBE,
  ],
  nat: ['KUBE-SERVICES', 'KUBE-NODEPORTS', POSTROUTING, MARK, MARK_OUTSIDE, CANARY, PROBE],
  mangle: [CANARY],
};
