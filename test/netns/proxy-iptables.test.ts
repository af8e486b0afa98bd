import test, { type ExecutionContext } from 'ava';
import { type Cidr, type Family, families } from '../../core/address.ts';
import type { IptablesBackend } from '../../proxy/iptables/backend.ts';
import { removeIptables } from '../../proxy/iptables/remove.ts';
import { variants } from '../../proxy/iptables/variant.ts';
import { labName } from './lab.ts';
import {
  type FrontendKind,
  IptablesLab,
  portsOf,
  type Source,
  type TestService,
  viewsOf,
} from './proxy-iptables-lab.ts';
import { url } from './proxy-lab.ts';

/*
 * Packets through the iptables backend in both kinds of iptables; pods "one" and "two" are on the node, "three" is on
 * the other one, see proxy-lab.ts.
 */

const pods = ['one', 'two', 'three'] as const;
const both = ['one', 'three'] as const;
const services: readonly TestService[] = [
  { number: 1, pods: both },
  { number: 2, pods: both, view: { externalPolicy: 'Local' } },
  { number: 3, pods: both, view: { internalPolicy: 'Local' } },
  { number: 4, pods: [] },
  { number: 5, pods: ['three'], view: { externalPolicy: 'Local' } },
  { number: 6, pods: ['three'], view: { internalPolicy: 'Local' } },
  { number: 7, pods: ['one'], view: { sourceRanges: [] } },
  { number: 9, pods, view: { affinitySeconds: 600 } },
  { number: 10, pods: ['one'] },
];

let lab: IptablesLab;
test.before(async () => {
  lab = await IptablesLab.open(labName());
});
test.after.always(() => lab[Symbol.asyncDispose]());

/** One line of the masquerade matrix: source, frontend, service, who answers. */
type Flow = readonly [Source, FrontendKind, number, string];

const matrix: readonly Flow[] = [
  ['client', 'clusterIP', 1, 'one+three'],
  ['client', 'clusterIP', 2, 'one+three'],
  ['client', 'clusterIP', 3, 'one'],
  ['client', 'nodePort', 1, 'one+three M'],
  ['client', 'loadBalancerIP', 1, 'one+three M'],
  ['client', 'externalIP', 1, 'one+three M'],
  ['client', 'nodePort', 2, 'one+three'],
  ['client', 'loadBalancerIP', 2, 'one+three'],
  ['client', 'externalIP', 3, 'one+three M'],
  ['node', 'clusterIP', 1, 'one+three'],
  ['node', 'clusterIP', 3, 'one'],
  ['node', 'nodePort', 1, 'one+three'],
  ['node', 'nodePort', 2, 'one+three'],
  ['node', 'loadBalancerIP', 2, 'one+three'],
  ['outside', 'clusterIP', 1, 'one+three M'],
  ['outside', 'clusterIP', 2, 'one+three M'],
  ['outside', 'clusterIP', 3, 'one M'],
  ['outside', 'nodePort', 1, 'one+three M'],
  ['outside', 'loadBalancerIP', 1, 'one+three M'],
  ['outside', 'externalIP', 1, 'one+three M'],
  ['outside', 'nodePort', 2, 'one'],
  ['outside', 'loadBalancerIP', 2, 'one'],
  ['outside', 'externalIP', 2, 'one'],
  ['outside', 'nodePort', 3, 'one+three M'],
  // A pod that reaches itself.
  ['one', 'clusterIP', 10, 'one M'],
  ['one', 'nodePort', 10, 'one M'],
];

const refusals: readonly Flow[] = [
  ...(['client', 'node', 'outside'] as const).flatMap((source) =>
    (['clusterIP', 'externalIP', 'loadBalancerIP', 'nodePort'] as const).map(
      (kind): Flow => [source, kind, 4, 'refused'],
    ),
  ),
  ['outside', 'nodePort', 5, 'no answer'],
  ['outside', 'loadBalancerIP', 5, 'no answer'],
  ['client', 'loadBalancerIP', 5, 'three'],
  ['client', 'nodePort', 5, 'three'],
  ['node', 'nodePort', 5, 'three'],
  ['client', 'clusterIP', 5, 'three'],
  ['client', 'clusterIP', 6, 'no answer'],
  ['node', 'clusterIP', 6, 'no answer'],
  ['outside', 'nodePort', 6, 'three M'],
];

async function follow(t: ExecutionContext, flows: readonly Flow[], family: Family): Promise<void> {
  for (const [source, kind, number, expected] of flows) {
    const at = lab.target(family, kind, number);
    const what = `${source} → ${kind} of ${number}, IPv${family}`;
    const names = expected.replace(/ M$/, '').split('+');
    t.is(await lab.seen(source, at, names), expected, what);
    const answer = await lab.datagram(source, at);
    const possible = names.map((name) => (expected.endsWith(' M') ? `${name} M` : name));
    t.true(possible.includes(answer), `${what}, UDP: ${answer}`);
  }
}

test.serial('what is left in the other kind of iptables goes when the rules are in place', async (t) => {
  for (const variant of variants) {
    const missing = await lab.missing(variant);
    if (missing === undefined) continue;
    t.log(`skipped: ${missing}`);
    return t.pass();
  }
  for (const variant of [...variants, ...variants]) {
    t.deepEqual((await lab.backend(variant).replace(viewsOf(services))).failures, []);
    for (const each of variants) {
      const saved = await lab.run(`/usr/sbin/iptables-${each}-save`);
      t.is(saved.includes('KUBE-SERVICES'), each === variant, `${each} after ${variant}`);
    }
  }
  t.true(await removeIptables({ namespaceFd: lab.namespace.fd }));
});

for (const variant of variants) {
  let backend: IptablesBackend;

  /** A test of this kind of iptables, skipped by name where the kernel does not have it. */
  const check = (title: string, body: (t: ExecutionContext) => Promise<void>) =>
    test.serial(`${variant}: ${title}`, async (t) => {
      t.timeout(120_000);
      const missing = await lab.missing(variant);
      if (missing === undefined) return await body(t);
      t.log(`skipped: ${missing}`);
      return t.pass();
    });

  check('all chains are written at once, and nothing by the next full pass', async (t) => {
    backend = lab.backend(variant);
    const { writes, failures } = await backend.replace(viewsOf(services));
    t.deepEqual(failures, []);
    t.true(writes > 100);
    t.deepEqual(await backend.replace(viewsOf(services)), { writes: 0, failures: [] });
    const successor = lab.backend(variant);
    t.deepEqual(await successor.replace(viewsOf(services)), { writes: 0, failures: [] });
    t.false(await backend.isDisturbed());
    for (const { table, family, total, last } of backend.rules()) {
      const program = `/usr/sbin/${family === 4 ? 'iptables' : 'ip6tables'}-${variant}`;
      const rules = (await lab.run(program, '-t', table, '-S')).split('\n');
      const own = rules.filter((rule) => /^-A KUBE-/.test(rule) && !/^-A KUBE-FIREWALL/.test(rule));
      t.is(own.length, total, `IPv${family} ${table}`);
      t.is(last, 0);
    }
  });

  for (const family of families) {
    check(`IPv${family}: the masquerade matrix`, async (t) => await follow(t, matrix, family));

    check(`IPv${family}: who is refused, and who is dropped`, async (t) => {
      await follow(t, refusals, family);
    });

    check(`IPv${family}: a client keeps its endpoint, also when others come and go`, async (t) => {
      const at = lab.target(family, 'clusterIP', 9);
      const outcome = await lab.lab.from('client').get(url(at.ip, at.port));
      const first = pods.find((pod) => outcome.ok && outcome.answer?.name === pod);
      if (first === undefined) return t.fail(JSON.stringify(outcome));
      const other = first === 'one' ? 'two' : 'one';
      const view = { affinitySeconds: 600 };
      const left = portsOf({ number: 9, pods: [other, first], view });
      const { failures } = await backend.update(new Map([['default/s9', left]]));
      t.deepEqual(failures, []);
      t.is(await lab.seen('client', at, [first]), first);
      // Shared by all frontends of the port.
      t.is(await lab.seen('client', lab.target(family, 'nodePort', 9), [first]), `${first} M`);
      await backend.update(new Map([['default/s9', portsOf({ number: 9, pods: [other], view })]]));
      t.is(await lab.seen('client', at, []), other);
      await backend.update(new Map([['default/s9', portsOf({ number: 9, pods, view })]]));
    });
  }

  check('source ranges: of load balancer addresses only', async (t) => {
    const outside = lab.addressOf('outside', 4);
    const narrow = (range: string) => {
      const view = { sourceRanges: [range] as string[] as Cidr[] };
      return new Map([
        ['default/s7', portsOf({ number: 7, pods: ['one'], view }).filter((port) => port.family === 4)],
      ]);
    };
    await backend.update(narrow(`${outside}/32`));
    t.is(await lab.seen('outside', lab.target(4, 'loadBalancerIP', 7), ['one']), 'one M');
    t.is(await lab.seen('client', lab.target(4, 'loadBalancerIP', 7), []), 'no answer');
    t.is(await lab.seen('node', lab.target(4, 'loadBalancerIP', 7), []), 'no answer');
    await backend.update(narrow('203.0.113.0/25'));
    t.is(await lab.seen('outside', lab.target(4, 'loadBalancerIP', 7), []), 'no answer');
    t.is(await lab.seen('outside', lab.target(4, 'nodePort', 7), ['one']), 'one M');
    t.is(await lab.seen('outside', lab.target(4, 'externalIP', 7), ['one']), 'one M');
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 7), ['one']), 'one');
  });

  check('node ports answer on 127.0.0.1, on ::1 they do not', async (t) => {
    const at = (ip: string) => ({ ip, port: 30_001 }) as Parameters<typeof lab.seen>[1];
    t.is(await lab.seen('node', at('127.0.0.1'), ['one', 'three']), 'one+three');
    t.is(await lab.seen('node', at('::1'), []), 'refused');
    t.is((await lab.run('cat', '/proc/sys/net/ipv4/conf/all/route_localnet')).trim(), '1');
  });

  check('changes are written alone, and a full pass finds them right', async (t) => {
    const views = new Map([
      ...viewsOf(services),
      ['default/s10', []],
      ...viewsOf([{ number: 11, pods: ['two'] }]),
    ]);
    const changed = new Map([...views].filter(([name]) => /s(7|9|10|11)$/.test(name)));
    const { writes, failures } = await backend.update(changed);
    t.deepEqual(failures, []);
    t.true(writes < 400, `${writes} writes`);
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 11), ['two']), 'two');
    t.deepEqual(await backend.replace(views), { writes: 0, failures: [] });
    t.deepEqual(await backend.update(changed), { writes: 0, failures: [] });
  });

  check('node ports follow the addresses of the node', async (t) => {
    const facts = (ips: 'all' | []) => ({ nodePortIps: { 4: ips, 6: ips }, serviceCidrs: [] });
    await backend.updateNode(facts([]));
    for (const family of families)
      t.is(await lab.seen('outside', lab.target(family, 'nodePort', 1), []), 'refused');
    t.deepEqual((await backend.updateNode(facts('all'))).failures, []);
    for (const family of families) {
      t.is(await lab.seen('outside', lab.target(family, 'nodePort', 1), both), 'one+three M');
    }
  });

  check(
    'masqueradeAll is for pods as well, without a detector nobody is masqueraded at a cluster IP',
    async (t) => {
      await lab.backend(variant, { masqueradeAll: true }).replace(viewsOf(services));
      t.is(await lab.seen('client', lab.target(4, 'clusterIP', 1), both), 'one+three M');
      await lab.backend(variant, { detectLocal: { mode: 'none' } }).replace(viewsOf(services));
      t.is(await lab.seen('outside', lab.target(4, 'clusterIP', 3), ['one']), 'one');
      t.is(await lab.seen('client', lab.target(4, 'nodePort', 2), ['one']), 'one');
      await lab
        .backend(variant, { detectLocal: { mode: 'bridge', name: 'cni0' } })
        .replace(viewsOf(services));
      t.is(await lab.seen('client', lab.target(4, 'clusterIP', 1), both), 'one+three');
      t.is(await lab.seen('outside', lab.target(4, 'clusterIP', 1), both), 'one+three M');
      await backend.replace(viewsOf(services));
    },
  );

  check('a flush is noticed, and everything written again', async (t) => {
    const before = await lab.run(`/usr/sbin/iptables-${variant}`, '-t', 'nat', '-S', 'KUBE-SERVICES');
    for (const table of ['filter', 'nat', 'mangle']) {
      t.false(await backend.isDisturbed());
      await lab.run(`/usr/sbin/iptables-${variant}`, '-t', table, '-F');
      t.true(await backend.isDisturbed());
      t.true((await backend.replace(viewsOf(services))).writes > 0);
    }
    const after = await lab.run(`/usr/sbin/iptables-${variant}`, '-t', 'nat', '-S', 'KUBE-SERVICES');
    t.deepEqual(after.split('\n').sort(), before.split('\n').sort());
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 1), both), 'one+three');
  });

  check('a refused change is told with the line, and changes nothing', async (t) => {
    await lab.run(`/usr/sbin/iptables-${variant}`, '-t', 'nat', '-F', 'KUBE-SERVICES');
    const { failures } = await backend.update(new Map([['default/s1', []]]));
    t.is(failures.length, 1);
    t.regex(failures[0]?.error.message ?? '', new RegExp(`^iptables-${variant}-restore: .*\\(line \\d+: `));
    t.deepEqual((await backend.replace(viewsOf(services))).failures, []);
    t.is(await lab.seen('client', lab.target(4, 'clusterIP', 1), both), 'one+three');
  });

  check('everything is taken away, and rules of others stay', async (t) => {
    const iptables = `/usr/sbin/iptables-${variant}`;
    await lab.run(iptables, '-t', 'nat', '-A', 'PREROUTING', '-p', 'tcp', '--dport', '9', '-j', 'RETURN');
    t.true(await removeIptables({ namespaceFd: lab.namespace.fd }));
    t.false(await removeIptables({ namespaceFd: lab.namespace.fd }));
    const saved = await lab.run(`${iptables}-save`);
    const left = saved.split('\n').filter((line) => /KUBE/.test(line) && !/KUBE-FIREWALL/.test(line));
    t.deepEqual(left, []);
    t.regex(saved, /-A PREROUTING -p tcp -m tcp --dport 9 -j RETURN/);
    t.is(await lab.seen('node', lab.target(4, 'nodePort', 1), []), 'refused');
    await lab.run(iptables, '-t', 'nat', '-F');
    for (const program of [iptables, `/usr/sbin/ip6tables-${variant}`]) await lab.run(program, '-F');
  });
}
