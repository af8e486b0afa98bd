import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { serveStatus } from '../../cli/node-status.ts';
import { tracePages } from '../../cli/status-pages.ts';
import { readTarget } from '../../cli/trace.ts';
import { askTrace } from '../../cli/trace-ask.ts';
import { renderTrace } from '../../cli/trace-text.ts';
import type { Verification } from '../../cli/trace-verify.ts';
import type { Ip } from '../../core/address.ts';
import { defaultPolicy } from '../../proxy/policy.ts';
import type { ServiceProxy } from '../../proxy/proxy.ts';
import type { TraceAnswer } from '../../proxy/trace-request.ts';

const [client, vip, one] = ['10.244.1.9', '10.96.0.10', '10.244.1.11'] as readonly string[] as [Ip, Ip, Ip];
const status = () => ({ name: 'node-1', pid: 1, ready: true, startedAt: '' });

function folder(t: ExecutionContext): string {
  const made = mkdtempSync(join(tmpdir(), 'fairlead-trace-'));
  t.teardown(() => rmSync(made, { recursive: true }));
  return made;
}

test('a destination is an address with a port, and a protocol that is TCP by default', (t) => {
  t.deepEqual(readTarget('10.96.0.10:80'), { destination: vip, port: 80, protocol: 'tcp' });
  t.deepEqual(readTarget('[FD00::1]:53/UDP'), { destination: 'fd00::1' as Ip, port: 53, protocol: 'udp' });
  t.is(readTarget('10.96.0.10:9/sctp').protocol, 'sctp');
  for (const bad of [
    '10.96.0.10',
    'fd00::1:80',
    '10.96.0.10:0',
    '10.96.0.10:70000',
    'web:80',
    '10.96.0.10:80/icmp',
  ])
    t.throws(() => readTarget(bad), undefined, bad);
});

/** Of a proxy what a trace needs, without Services. */
const proxy = {
  views: new Map(),
  policy: defaultPolicy,
  facts: { nodePortIps: { 4: [], 6: [] }, serviceCidrs: ['10.96.0.0/16'] },
  status: () => ({ backend: 'nftables' }),
} as unknown as ServiceProxy;
const request = { source: client, destination: vip, port: 80, protocol: 'tcp' } as const;

test('the agent’s socket answers, beside the status', async (t) => {
  const runDir = folder(t);
  await using _server = await serveStatus(
    join(runDir, 'node.sock'),
    status,
    tracePages(() => proxy),
  );
  const { trace, backend, isSourceHere } = await askTrace(runDir, request);
  t.like({ backend, isSourceHere }, { backend: 'nftables', isSourceHere: false });
  t.like(trace, { verdict: 'dropped', reason: '10.96.0.10 is in 10.96.0.0/16, and no Service has it' });
  t.like(await askTrace(runDir, { ...request, source: '127.0.0.1' as Ip }), { isSourceHere: true });
});

test('a proxy by itself answers where the agent serves no Services', async (t) => {
  const runDir = folder(t);
  await using _agent = await serveStatus(
    join(runDir, 'node.sock'),
    status,
    tracePages(() => undefined),
  );
  await t.throwsAsync(askTrace(runDir, request), { message: /has not synced yet; try again when/ });
  await using _proxy = await serveStatus(
    join(runDir, 'proxy.sock'),
    status,
    tracePages(() => proxy),
  );
  t.is((await askTrace(runDir, request)).backend, 'nftables');
});

test('what is wrong with a question is answered, all of it', async (t) => {
  const runDir = folder(t);
  await using _server = await serveStatus(
    join(runDir, 'node.sock'),
    status,
    tracePages(() => proxy),
  );
  const bad = { source: 'x' as Ip, destination: 'y' as Ip, port: 0, protocol: 'tcp' } as const;
  const error = await t.throwsAsync(askTrace(runDir, bad));
  t.regex(error.message, /source: "x" is not an address, .*destination: "y" .*port: "0" is not a port/);
});

test('an agent that knows no traces is said to be old, and nobody to be nobody', async (t) => {
  const runDir = folder(t);
  await t.throwsAsync(askTrace(runDir, request), {
    message: /nobody answers on .*start one with "fairlead node"/,
  });
  await using _server = await serveStatus(join(runDir, 'node.sock'), status);
  await t.throwsAsync(askTrace(runDir, request), { message: /older version: start it anew/ });
});

const answer: TraceAnswer & { verification: Verification } = {
  backend: 'nftables',
  pid: 7,
  namespace: '1',
  isSourceHere: false,
  trace: {
    packet: { source: client, destination: vip, port: 80, protocol: 'tcp' },
    source: { class: 'pod', reason: 'in the pods’ network 10.244.0.0/16', isDetected: true },
    frontend: {
      service: 'default/web',
      portName: 'http',
      kind: 'loadBalancerIP',
      policy: 'Local',
      balancing: 'maglev',
      affinitySeconds: 60,
      sourceRanges: ['10.0.0.0/8'],
    },
    verdict: 'balanced',
    reason: 'externalTrafficPolicy: Local, from which pods are exempt',
    endpoints: [{ ip: one, port: 8080, local: true, percent: 100, masqueraded: false, hairpin: false }],
    masquerade: { wanted: false, reason: 'pods keep their address' },
  },
  verification: {
    agrees: false,
    findings: ['dropped by somebody else: table ip guard, chain in, rule 4', 'look at it'],
    sourcePort: 40_000,
    hops: [
      {
        family: 'ip',
        table: 'guard',
        chain: 'in',
        hook: 'forward',
        priority: 0,
        input: 'cni0',
        packet: { source: client, destination: one, protocol: 6, sourcePort: 40_000, port: 8080 },
        steps: [{ chain: 'in', kind: 'rule', handle: 4, verdict: 'drop' }],
        verdict: 'drop',
      },
    ],
    answer: 'no answer',
  },
};

test('a trace reads as one decision a line, then hop by hop', (t) => {
  t.is(
    renderTrace(answer, (_, text) => text),
    `10.244.1.9 → 10.96.0.10:80/tcp
source        a pod of this cluster: in the pods’ network 10.244.0.0/16
service       default/web, port http, by its load balancer's IP
policy        externalTrafficPolicy: Local
allowed       10.0.0.0/8
affinity      a client keeps its endpoint for 60 s
balancing     maglev: the same client has the same endpoint
endpoints     100.0 %  10.244.1.11:8080, on this node
masquerade    no: pods keep their address
plan          to the endpoint: externalTrafficPolicy: Local, from which pods are exempt

kernel        a packet from port 40000, hop by hop
  forward     ip guard in (somebody else's): drop
              10.244.1.9 → 10.244.1.11:8080, in cni0
                in: rule 4 → drop
answer        no answer
verdict       the kernel did NOT do what the plan says
              dropped by somebody else: table ip guard, chain in, rule 4
              look at it
`,
  );
});

test('bad ends are painted, and the rest is plain', (t) => {
  const painted = renderTrace(answer, (format, text) => (format === 'red' ? `<${text}>` : text));
  t.deepEqual(painted.match(/<.*>/g), [
    "<ip guard in (somebody else's): drop>",
    '<the kernel did NOT do what the plan says>',
  ]);
});
