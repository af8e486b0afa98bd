import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { families } from '../../core/address.ts';
import { type IptablesBackend, openIptables } from '../../proxy/iptables/backend.ts';
import type { Variant } from '../../proxy/iptables/program.ts';
import { removeIptables } from '../../proxy/iptables/remove.ts';
import { variants } from '../../proxy/iptables/variant.ts';
import type { ProxyPolicy } from '../../proxy/policy.ts';
import { labName } from './lab.ts';
import { factOf, missingIptables } from './missing.ts';
import { BackendLab, policy, type Target, type TestService, viewsOf } from './proxy-backend-lab.ts';
import { runIn } from './proxy-iptables-lab.ts';

// What both kinds of iptables do beside the conformance suite; pods are those of proxy-lab.ts.

const both = ['one', 'three'] as const;
const services: readonly TestService[] = [
  { number: 1, pods: both },
  { number: 2, pods: both, view: { externalPolicy: 'Local', affinitySeconds: 600 } },
  { number: 3, pods: both, view: { internalPolicy: 'Local', sourceRanges: [] } },
  { number: 4, pods: [] },
  { number: 10, pods: ['one'] },
];
const everywhere: Partial<ProxyPolicy> = { nodePortAddresses: [], localhostNodePorts: true };

let lab: BackendLab;
test.before(async () => {
  lab = await BackendLab.open(labName());
});
test.after.always(() => lab?.[Symbol.asyncDispose]());

/** Without a kind: that which the host uses. */
function open(variant?: Variant, changes: { auditIntervalMs?: number } = {}): IptablesBackend {
  const namespaceFd = lab.namespace.fd;
  const options = { policy: { ...policy, ...everywhere }, namespaceFd, variant, checkIntervalMs: 0 };
  return openIptables({ ...options, ...changes });
}

async function onNode(program: string, ...args: readonly string[]): Promise<string> {
  return await runIn(lab.lab.node.namespace, program, ...args);
}

/** Looking goes on beside other work: the answer comes with a later question. */
async function isDisturbed(backend: IptablesBackend, limitMs = 30_000): Promise<boolean> {
  const deadlineMs = performance.now() + limitMs;
  while (performance.now() < deadlineMs) {
    if (await backend.isDisturbed()) return true;
    await sleep(20);
  }
  return false;
}

const missing = { nft: missingIptables('nft'), legacy: missingIptables('legacy') };
const bothFact = factOf(missing.nft ?? missing.legacy);

bothFact('what is left in the other kind of iptables goes when the rules are in place', async (t) => {
  for (const variant of [...variants, ...variants]) {
    t.deepEqual((await open(variant).replace(viewsOf(services))).failures, []);
    for (const each of variants) {
      const saved = await onNode(`/usr/sbin/iptables-${each}-save`);
      t.is(saved.includes('KUBE-SERVICES'), each === variant, `${each} after ${variant}`);
    }
  }
  t.true(await removeIptables({ namespaceFd: lab.namespace.fd }));
});

for (const variant of variants) {
  const iptables = `/usr/sbin/iptables-${variant}`;
  let backend: IptablesBackend;

  const fact = (title: string, run: (t: ExecutionContext) => Promise<void>) =>
    factOf(missing[variant])(`${variant}: ${title}`, run);

  fact('all chains are written at once, and nothing by the next full pass', async (t) => {
    backend = open(variant);
    const { writes, failures } = await backend.replace(viewsOf(services));
    t.deepEqual(failures, []);
    t.true(writes > 100);
    t.deepEqual(await backend.replace(viewsOf(services)), { writes: 0, failures: [] });
    t.deepEqual(await open(variant).replace(viewsOf(services)), { writes: 0, failures: [] });
    t.false(await isDisturbed(backend, 300));
  });

  fact('its rules are counted', async (t) => {
    for (const { table, family, total, last } of backend.rules()) {
      const program = `/usr/sbin/${family === 4 ? 'iptables' : 'ip6tables'}-${variant}`;
      const rules = (await onNode(program, '-t', table, '-S')).split('\n');
      const own = rules.filter((rule) => /^-A KUBE-/.test(rule) && !/^-A KUBE-FIREWALL/.test(rule));
      t.is(own.length, total, `IPv${family} ${table}`);
      t.is(last, 0);
    }
  });

  fact('changes are written alone, and a full pass finds them right', async (t) => {
    const changed = new Map([...viewsOf([{ number: 11, pods: ['two'] }]), ['default/s10', []]]);
    const views = new Map([...viewsOf(services), ...changed]);
    const { writes, failures } = await backend.update(changed);
    t.deepEqual(failures, []);
    t.true(writes < 100, `${writes} writes`);
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 11)), 'two');
    t.deepEqual(await backend.replace(views), { writes: 0, failures: [] });
    t.deepEqual(await backend.update(changed), { writes: 0, failures: [] });
  });

  fact('the port that a load balancer asks at is let in before rules of others', async (t) => {
    const port = 31_012;
    const ask = (expected: 'refused' | 'no answer') =>
      lab.seen('outside', { ip: lab.nodeAddress(4), port }, expected === 'refused' ? [] : expected);
    await onNode(iptables, '-A', 'INPUT', '-p', 'tcp', '--dport', `${port}`, '-j', 'DROP');
    t.is(await ask('no answer'), 'no answer');
    const asked = { number: 12, pods: ['one'], view: { healthCheckPort: port } } as const;
    await lab.update(backend, [asked]);
    // Nobody listens there, and says so.
    t.is(await ask('refused'), 'refused');
    const { failures } = await backend.update(new Map([['default/s12', []]]));
    t.deepEqual(failures, []);
    t.is(await ask('no answer'), 'no answer');
    await onNode(iptables, '-D', 'INPUT', '-p', 'tcp', '--dport', `${port}`, '-j', 'DROP');
  });

  fact('node ports answer on 127.0.0.1, where others cannot send to; on ::1 they do not', async (t) => {
    const at = (ip: string) => ({ ip, port: 30_001 }) as Target;
    // One that is on this node sees that it was masqueraded.
    t.is(await lab.seen('node', at('127.0.0.1'), both), 'one+three M');
    t.is(await lab.seen('node', at('::1')), 'refused');
    t.is((await onNode('cat', '/proc/sys/net/ipv4/conf/all/route_localnet')).trim(), '1');
    t.regex(await onNode(iptables, '-S', 'KUBE-FIREWALL'), /! -s 127.0.0.0\/8 -d 127.0.0.0\/8 .* -j DROP/);
  });

  fact('invalid packets are dropped unless connection tracking is liberal', async (t) => {
    const key = '/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal';
    t.regex(await onNode(iptables, '-S', 'KUBE-FORWARD'), /--ctstate INVALID -j DROP/);
    await onNode('sh', '-c', `echo 1 > ${key}`);
    await open(variant).replace(viewsOf(services));
    t.notRegex(await onNode(iptables, '-S', 'KUBE-FORWARD'), /INVALID/);
    await onNode('sh', '-c', `echo 0 > ${key}`);
    await open(variant).replace(viewsOf(services));
    t.regex(await onNode(iptables, '-S', 'KUBE-FORWARD'), /--ctstate INVALID -j DROP/);
  });

  fact('the kind is the one that kubelet has its chain in', async (t) => {
    await onNode(iptables, '-t', 'mangle', '-N', 'KUBE-KUBELET-CANARY');
    t.deepEqual(await open().replace(viewsOf(services)), { writes: 0, failures: [] });
    await onNode(iptables, '-t', 'mangle', '-X', 'KUBE-KUBELET-CANARY');
  });

  fact('a flush is noticed, and everything written again', async (t) => {
    await backend.replace(viewsOf(services));
    const before = await onNode(iptables, '-t', 'nat', '-S', 'KUBE-SERVICES');
    for (const table of ['filter', 'nat', 'mangle']) {
      t.false(await isDisturbed(backend, 300));
      await onNode(iptables, '-t', table, '-F');
      t.true(await isDisturbed(backend));
      t.true((await backend.replace(viewsOf(services))).writes > 0);
    }
    const after = await onNode(iptables, '-t', 'nat', '-S', 'KUBE-SERVICES');
    t.deepEqual(after.split('\n').sort(), before.split('\n').sort());
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 1), both), 'one+three');
  });

  fact('one rule that somebody took away is noticed as well, and then written again', async (t) => {
    const watching = open(variant, { auditIntervalMs: 0 });
    await watching.replace(viewsOf(services));
    t.false(await isDisturbed(watching, 500));
    // Found right by itself: there is nothing to be read again.
    t.deepEqual(await watching.replace(viewsOf(services)), { writes: 0, failures: [] });
    await onNode(iptables, '-t', 'nat', '-D', 'KUBE-POSTROUTING', '3');
    t.true(await isDisturbed(watching));
    t.is((await watching.replace(viewsOf(services))).writes, 4);
    t.false(await isDisturbed(watching, 500));
    // What is written meanwhile is nobody else's doing.
    for (const pods of [['two'], both, ['one'], []] as const) {
      const { failures } = await watching.update(viewsOf([{ number: 10, pods }]));
      t.deepEqual(failures, []);
      t.false(await isDisturbed(watching, 50));
    }
    t.is((await watching.replace(viewsOf(services))).failures.length, 0);
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 10)), 'one');
  });

  fact('a refused change is told with the line, and changes nothing', async (t) => {
    await onNode(iptables, '-t', 'nat', '-F', 'KUBE-SERVICES');
    const { failures } = await backend.update(new Map([['default/s1', []]]));
    t.is(failures.length, 1);
    t.regex(failures[0]?.error.message ?? '', new RegExp(`^iptables-${variant}-restore: .*\\(line \\d+: `));
    t.deepEqual((await backend.replace(viewsOf(services))).failures, []);
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 1), both), 'one+three');
  });

  fact('everything is taken away but KUBE-FIREWALL, and rules of others stay', async (t) => {
    await onNode(iptables, '-t', 'nat', '-A', 'PREROUTING', '-p', 'tcp', '--dport', '9', '-j', 'RETURN');
    t.true(await removeIptables({ namespaceFd: lab.namespace.fd }));
    t.regex(await onNode(iptables, '-S', 'KUBE-FIREWALL'), /-j DROP/);
    t.false(await removeIptables({ namespaceFd: lab.namespace.fd }));
    const saved = await onNode(`${iptables}-save`);
    t.deepEqual(
      saved.split('\n').filter((line) => /KUBE-(?!FIREWALL)/.test(line)),
      [],
    );
    t.regex(saved, /-A PREROUTING -p tcp -m tcp --dport 9 -j RETURN/);
    for (const family of families) t.is(await lab.seen('node', lab.target(family, 'nodePort', 1)), 'refused');
    await onNode(iptables, '-t', 'nat', '-F');
    await onNode(iptables, '-F');
  });
}
