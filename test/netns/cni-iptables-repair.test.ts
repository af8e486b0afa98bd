import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CniNode, eventually, testConfig } from '../cni/node.ts';
import { factOf, missingProgram } from './missing.ts';

/** The program that is all of iptables, by the name that it is called by. */
const programs = { nft: '/usr/sbin/xtables-nft-multi', legacy: '/usr/sbin/xtables-legacy-multi' } as const;
const names = ['iptables', 'iptables-save', 'iptables-restore', 'ip6tables-save', 'ip6tables-restore'];
/** Rules are read every five seconds at most. */
const repairMs = 60_000;

const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];

for (const kind of ['nft', 'legacy'] as const) {
  const kindTest = factOf(missingProgram(programs[kind]), test);
  kindTest(`rules of iptables, kind ${kind}, are kept: a jump alone, and what goes soon after`, async (t) => {
    const node = CniNode.open(t);
    const bin = join(node.directory, 'bin');
    mkdirSync(bin);
    for (const name of names) symlinkSync(programs[kind], join(bin, name));
    const iptables = (...words: string[]) => node.exec(join(bin, 'iptables'), '-t', ...words);
    const guard = /-A PREROUTING -d 127\.0\.0\.0\/8 ! -i lo .*-j DROP/;
    const rules = async () => {
      const lines = (await node.exec(join(bin, 'iptables-save'))).split('\n');
      return lines.filter((line) => line.startsWith('-A')).sort();
    };
    await node.start({}, `${bin}:${process.env.PATH}`);
    const ipam = { subnet: '10.55.0.0/24' };
    const config = testConfig({ ipam, backend: 'iptables', runtimeConfig: { portMappings } });
    const pod = node.pod();
    t.is((await node.call('ADD', { ...pod, config })).exitCode, 0);
    const before = await rules();
    t.regex(before.join('\n'), /-A FAIRLEAD-HP-DNAT .*--dport 8080 /);
    const isBack = () => eventually(async () => (await rules()).join() === before.join(), repairMs);
    t.regex(before.join('\n'), guard);
    await iptables('nat', '-D', 'PREROUTING', '1');
    t.true(await isBack(), node.log.join('\n'));
    await iptables('nat', '-F');
    await iptables('mangle', '-F');
    t.true(await isBack(), node.log.join('\n'));
    t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
    t.notRegex((await rules()).join('\n'), /8080/);
    t.regex((await rules()).join('\n'), guard, 'as long as route_localnet is set');
  });
}
