/** A test file for the guest, with the time that it may take under emulation. */
export interface Suite {
  readonly file: string;
  readonly limitSeconds: number;
  /** The tests of the file with such titles, in ava's form; absent: all. */
  readonly match?: string;
}

export interface Outcome {
  readonly file: string;
  readonly match?: string;
  readonly outcome: 'passed' | 'failed' | 'over its limit' | 'not begun' | 'not ended';
  readonly seconds?: number;
}

export interface Results {
  /** Absent: the guest did not come as far as its first suite. */
  readonly kernel?: { readonly version: string; readonly bootSeconds: number };
  readonly missingModules: readonly string[];
  readonly outcomes: readonly Outcome[];
}

/**
 * What runs when no file is named, in order of worth, for the budget may end before the list: first packets that few
 * other kernels can show, then what is said of them in other words, then what depends on the kernel's version and
 * configuration. Limits are about four times what an idle machine of two processors needs; one that is long stands
 * early, for it would not fit into what is left later.
 */
export const SUITES: readonly Suite[] = [
  // Without the one that waits for minutes.
  { file: 'test/netns/proxy-conformance-ipvs.test.ts', limitSeconds: 600, match: '!*is forgotten when*' },
  // Both families at once, and what others break of them, take twice as long.
  { file: 'test/netns/daemon-tunnels.test.ts', limitSeconds: 300, match: 'pods on two nodes*alone' },
  { file: 'test/netns/proxy-packets-ipvs.test.ts', limitSeconds: 150 },
  { file: 'test/netns/proxy-ipvs-schedulers.test.ts', limitSeconds: 240 },
  { file: 'test/netns/proxy-ipvs-modes.test.ts', limitSeconds: 240 },
  { file: 'test/netns/proxy-ipvs.test.ts', limitSeconds: 200 },
  { file: 'test/netns/proxy-ipvs-services.test.ts', limitSeconds: 200 },
  { file: 'test/netns/kernel-ipvs.test.ts', limitSeconds: 100 },
  { file: 'test/netns/kernel-tunnel.test.ts', limitSeconds: 100 },
  { file: 'test/netns/cni-vlan.test.ts', limitSeconds: 100 },
  { file: 'test/netns/kernel-bridge-vlan.test.ts', limitSeconds: 120 },
  { file: 'test/netns/proxy-command-ipvs.test.ts', limitSeconds: 250 },
  // Each `fairlead trace` is a start of Node; IPv6 takes as long again.
  { file: 'test/netns/trace-ipvs.test.ts', limitSeconds: 250, match: 'IPv4*' },
  { file: 'test/netns/proxy-sctp.test.ts', limitSeconds: 300 },
  // An older kernel.
  { file: 'test/netns/nftables-packets.test.ts', limitSeconds: 100 },
  { file: 'test/netns/kernel-link.test.ts', limitSeconds: 100 },
  { file: 'test/netns/proxy-packets.test.ts', limitSeconds: 200 },
  { file: 'test/netns/kernel-qdisc.test.ts', limitSeconds: 150 },
  { file: 'test/netns/nftables-table.test.ts', limitSeconds: 150 },
  // Each of the others takes as long again.
  { file: 'test/netns/daemon-packets.test.ts', limitSeconds: 150, match: 'the largest packet of a pod*' },
  // With more nodes at once the cluster's own limit for becoming ready (30 s) is too near.
  { file: 'test/netns/cluster.test.ts', limitSeconds: 150, match: 'a removed pod leaves nothing*' },
];

/** For a file that somebody names, whole. */
export const NAMED_LIMIT_SECONDS = 1_500;

/** What the tests use of the kernel and what is not loaded by itself on use, or is worth a word when it is absent. */
export const MODULES: readonly string[] = [
  ...[
    'bridge',
    'br_netfilter',
    'veth',
    'dummy',
    'vxlan',
    'ipip',
    'ip6_tunnel',
    '8021q',
    'wireguard',
    'tun',
    'ifb',
  ],
  ...['sch_tbf', 'sch_ingress', 'cls_u32', 'act_mirred', 'sctp', 'overlay'],
  ...['nf_tables', 'nf_conntrack', 'nf_conntrack_netlink', 'nft_ct', 'nft_nat', 'nft_masq', 'nft_numgen'],
  ...['nft_fib_inet', 'nft_reject_inet', 'nft_compat', 'ip_set', 'ip_set_hash_ipport', 'xt_set'],
  ...['ip_vs', 'ip_vs_rr', 'ip_vs_wrr', 'ip_vs_lc', 'ip_vs_wlc', 'ip_vs_sh', 'ip_vs_dh', 'ip_vs_sed'],
  ...['ip_vs_nq', 'ip_vs_mh', 'ip_vs_lblc', 'ip_vs_lblcr'],
];

/** What the guest is to do, in the form that guest.sh reads. */
export function renderJob(checkout: string, budgetSeconds: number, suites: readonly Suite[]): string {
  const lines = suites.map(({ limitSeconds, file, match = '' }) => [limitSeconds, file, match].join('\t'));
  return [checkout, budgetSeconds, MODULES.join(' '), ...lines, ''].join('\n');
}

/** What guest.sh wrote, which may end anywhere. */
export function parseResults(text: string, suites: readonly Suite[]): Results {
  const lines = text.split('\n').map((line) => line.split('\t'));
  const [, version, bootSeconds] = lines.find(([word]) => word === 'kernel') ?? [];
  return {
    kernel: version === undefined ? undefined : { version, bootSeconds: Number(bootSeconds) },
    missingModules: lines.flatMap(([word, name]) => (word === 'module' && name !== undefined ? [name] : [])),
    outcomes: suites.map(({ file, match }) => ({ ...outcomeOf(file, lines), match })),
  };
}

function outcomeOf(file: string, lines: readonly string[][]): Outcome {
  const about = lines.filter((line) => line.at(-1) === file);
  const [, seconds, status] = about.find(([word]) => word === 'suite') ?? [];
  if (status === undefined) return { file, outcome: about.length > 0 ? 'not ended' : 'not begun' };
  // timeout(1): 124, or 137 when the first signal was not enough.
  const outcome = status === '0' ? 'passed' : /^(124|137)$/.test(status) ? 'over its limit' : 'failed';
  return { file, outcome, seconds: Number(seconds) };
}

/** Lines for people; `why` says why suites are missing. */
export function renderSummary({ missingModules, outcomes }: Results, why: string): string {
  const lines = outcomes.map(({ file, match, outcome, seconds }) => {
    const time = seconds === undefined ? why : `${seconds} s`;
    const part =
      match === undefined
        ? ''
        : `; ${match.startsWith('!') ? 'without' : 'only'} "${match.replace('!', '')}"`;
    return `vm: ${outcome.padEnd(14)} ${file} (${time}${part})`;
  });
  if (missingModules.length > 0) lines.unshift(`vm: this kernel has no module ${missingModules.join(', ')}`);
  return `${lines.join('\n')}\n`;
}
