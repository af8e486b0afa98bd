import test from 'ava';
import type { Ip } from '../../core/address.ts';
import type { TraceHop, TraceHopStep } from '../../kernel/nftables-trace.ts';
import type { Trace } from '../../proxy/trace.ts';
import { judgeTrace } from '../../proxy/trace-verify.ts';

const [client, vip, one, two] = [
  '10.244.1.9',
  '10.96.0.10',
  '10.244.1.11',
  '10.244.2.12',
] as readonly string[] as [Ip, Ip, Ip, Ip];

const balanced: Trace = {
  packet: { source: client, destination: vip, port: 80, protocol: 'tcp' },
  source: { class: 'pod', reason: '', isDetected: true },
  verdict: 'balanced',
  reason: '',
  endpoints: [
    { ip: one, port: 8080, local: true, percent: 50, masqueraded: false, hairpin: false },
    { ip: two, port: 8080, local: false, percent: 50, masqueraded: true, hairpin: false },
  ],
};
const refused: Trace = { ...balanced, verdict: 'refused', endpoints: [] };
const dropped: Trace = { ...refused, verdict: 'dropped' };
const untouched: Trace = { ...refused, verdict: 'untouched' };

interface At {
  readonly table?: string;
  readonly to?: Ip;
  readonly steps?: readonly TraceHopStep[];
}

function hop(hook: string, { table = 'fairlead-proxy', to = vip, steps = [] }: At = {}): TraceHop {
  const port = to === vip ? 80 : 8080;
  const packet = { source: client, destination: to, protocol: 6, sourcePort: 40_000, port };
  const verdict = steps.at(-1)?.verdict ?? 'accept';
  return { family: 'ip', table, chain: `c-${hook}`, hook, priority: 0, packet, steps, verdict };
}

const drop: TraceHopStep = { chain: 'refuse', kind: 'rule', handle: 7, comment: 'others', verdict: 'drop' };
const masquerade: TraceHopStep = {
  chain: 'c-postrouting',
  kind: 'rule',
  verdict: 'accept',
  does: 'masquerade',
};
const policy: TraceHopStep = { chain: 'c-postrouting', kind: 'policy', verdict: 'accept' };
const way = (to: Ip, step: TraceHopStep) => [
  hop('prerouting'),
  hop('forward', { to }),
  hop('postrouting', { to, steps: [step] }),
];

test('a packet that reaches one of the endpoints, masqueraded as it should be, is as planned', (t) => {
  t.like(judgeTrace(balanced, way(one, policy), 'nftables'), {
    agrees: true,
    findings: ['sent to 10.244.1.11:8080, with its own source address'],
    endpoint: { ip: one, port: 8080 },
  });
  t.like(judgeTrace(balanced, way(two, masquerade), 'nftables'), { agrees: true });
  t.like(judgeTrace(balanced, way(two, policy), 'nftables'), { agrees: false });
  t.like(judgeTrace(balanced, way(one, masquerade), 'nftables'), { agrees: false });
});

test('an endpoint that is none of the plan’s, and none at all, are not', (t) => {
  const other = '10.244.9.9' as Ip;
  const judged = judgeTrace(balanced, way(other, policy), 'nftables');
  t.false(judged.agrees);
  t.is(judged.findings[0], 'it was sent to 10.244.9.9:8080, which is none of the endpoints');
  t.false(judgeTrace(balanced, way(vip, policy), 'nftables').agrees);
});

test('a packet that is not seen again is lost on the way', (t) => {
  const { agrees, findings } = judgeTrace(balanced, way(one, policy).slice(0, 2), 'nftables');
  t.false(agrees);
  t.regex(findings.at(-1) ?? '', /not seen again after forward: there is no route/);
});

test('our own refusals and drops are as planned only where they were planned', (t) => {
  const rejects = [hop('prerouting'), hop('forward', { steps: [{ ...drop, does: 'reject' }] })];
  const drops = [hop('prerouting', { steps: [drop] })];
  const agree = (trace: Trace, hops: readonly TraceHop[]) => judgeTrace(trace, hops, 'nftables').agrees;
  t.deepEqual(
    [refused, dropped, balanced, untouched].map((trace) => agree(trace, rejects)),
    [true, false, false, false],
  );
  t.deepEqual(
    [refused, dropped, balanced, untouched].map((trace) => agree(trace, drops)),
    [false, true, false, false],
  );
  t.false(agree(refused, way(vip, policy)));
  t.true(agree(untouched, way(vip, policy)));
  t.false(agree(untouched, way(one, policy)));
});

test('a drop by somebody else is named, and never as planned', (t) => {
  const foreign = [hop('prerouting'), hop('forward', { table: 'guard', to: one, steps: [drop] })];
  for (const trace of [balanced, dropped]) {
    t.like(judgeTrace(trace, foreign, 'nftables'), {
      agrees: false,
      findings: [
        'dropped by somebody else: table ip guard, chain refuse, rule 7 “others”',
        'look at it with: nft -a list chain ip guard refuse',
      ],
    });
  }
  const byPolicy = { chain: 'c-forward', kind: 'policy', verdict: 'drop' } as const;
  const judged = judgeTrace(balanced, [hop('forward', { table: 'guard', steps: [byPolicy] })], 'nftables');
  t.is(judged.findings[0], 'dropped by somebody else: table ip guard, chain c-forward, its policy');
});

test('iptables’ chains in nftables count as ours by their names', (t) => {
  const inChain = (chain: string) => [hop('forward', { table: 'filter', steps: [{ ...drop, chain }] })];
  const own = judgeTrace(refused, inChain('KUBE-SERVICES'), 'iptables');
  t.true(own.agrees);
  t.regex(own.findings[0] ?? '', /^refused or dropped by table ip filter, chain KUBE-SERVICES/);
  t.false(judgeTrace(refused, inChain('FORWARD'), 'iptables').agrees);
  const nat = way(two, policy).map((each) => ({ ...each, table: 'nat' }));
  t.like(judgeTrace(balanced, nat, 'iptables'), { agrees: true, findings: ['sent to 10.244.2.12:8080'] });
});

test('in ipvs a packet comes to the input hook and leaves by output, and the masquerade is looked at', (t) => {
  const through = (to: Ip, step: TraceHopStep) => [
    hop('prerouting', { table: 'fairlead-ipvs' }),
    hop('input', { table: 'fairlead-ipvs' }),
    hop('output', { table: 'fairlead-ipvs', to }),
    hop('postrouting', { table: 'fairlead-ipvs', to, steps: [step] }),
  ];
  t.like(judgeTrace(balanced, through(two, masquerade), 'ipvs'), {
    agrees: true,
    findings: ['sent to 10.244.2.12:8080, masqueraded'],
  });
  t.false(judgeTrace(balanced, through(two, policy), 'ipvs').agrees);
  const rejects = [hop('input', { table: 'fairlead-ipvs', steps: [{ ...drop, does: 'reject' }] })];
  t.like(judgeTrace(refused, rejects, 'ipvs'), {
    agrees: true,
    findings: ['refused by table ip fairlead-ipvs, chain refuse, rule 7 “others”'],
  });
  t.false(judgeTrace(refused, rejects, 'nftables').agrees);
});
