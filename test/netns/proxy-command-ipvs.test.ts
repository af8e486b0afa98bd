import { join } from 'node:path';
import test from 'ava';
import { factOf } from './missing.ts';
import { missingIpvs } from './missing-ipvs.ts';
import { ended, SAFE, Stage, until } from './proxy-command-stage.ts';

/* Where there is IPVS: `npm run test:vm -- test/netns/proxy-command-ipvs.test.ts`. Elsewhere: what is said of it. */

const missing = await missingIpvs();

test('a kernel without IPVS, or without the scheduler, ends it with what is missing and what to do', async (t) => {
  const stage = new Stage(t);
  const access = ['--master=http://127.0.0.1:1', '--proxy-mode=ipvs', '--ipvs-scheduler=best'];
  const { child, said } = stage.start('proxy', ...SAFE, ...access);
  t.is(await ended(child), 1);
  t.regex(
    said(),
    missing === undefined ? /no IPVS scheduler .*best.*module ip_vs_best/ : /no IPVS \(module ip_vs\)/,
  );
  t.regex(said(), /modprobe.* or use the proxy mode nftables/);
});

factOf(missing)('it serves in mode ipvs, gives way to another mode, and is cleaned up', async (t) => {
  const stage = new Stage(t);
  await stage.openApi();
  const access = ['--kubeconfig', stage.kubeconfig, '--bind-address=127.0.0.1'];
  const show = (...words: string[]) => stage.inside(...words);
  const addresses = () => show('/usr/sbin/ip', '-4', '-brief', 'address');
  const sysctl = async (key: string) => (await show('/usr/sbin/sysctl', '-n', key)).trim();
  stage.load('table ip kube-proxy { comment "rules for kube-proxy"; }');
  const before = await sysctl('net.ipv4.vs.conntrack');
  const serve = async (mode: string, ...more: string[]) => {
    const { child, said } = stage.start('proxy', ...SAFE, ...access, `--proxy-mode=${mode}`, ...more);
    await until(() => said().includes('full sync'), said);
    return { child, said };
  };
  const first = await serve('ipvs', '--ipvs-scheduler=lc');
  t.is(await stage.get('http://127.0.0.1:10249/proxyMode'), '200 ipvs');
  t.regex(await addresses(), /kube-ipvs0 .*10\.96\.7\.7\/32/);
  t.regex(stage.nft('list table ip fairlead-ipvs'), /10\.96\.7\.7/);
  await until(() => !stage.nft('list tables').includes('kube-proxy'), first.said);
  t.is(await sysctl('net.ipv4.vs.conntrack'), '1');
  // It has no endpoints.
  t.is(await stage.get('http://10.96.7.7'), 'ECONNREFUSED');
  first.child.kill('SIGINT');
  t.is(await ended(first.child), 0, first.said());

  const second = await serve('nftables');
  await until(async () => !(await addresses()).includes('kube-ipvs0'), second.said);
  t.false(stage.nft('list tables').includes('fairlead-ipvs'));
  second.child.kill('SIGINT');
  await ended(second.child);

  const third = await serve('ipvs');
  await until(() => !stage.nft('list tables').includes('fairlead-proxy'), third.said);
  third.child.kill('SIGKILL');
  await ended(third.child);
  const places = ['--run-dir', stage.runDir, '--cni-bin-dir', join(stage.folder, 'bin')];
  const cleanup = stage.start('cleanup', ...places, '--cni-conf-dir', join(stage.folder, 'net.d'));
  t.is(await ended(cleanup.child), 0, cleanup.said());
  t.is(stage.nft('list tables'), '');
  t.notRegex(await addresses(), /kube-ipvs0/);
  t.is((await show('cat', '/proc/net/ip_vs')).trimEnd().split('\n').length, 3);
  t.is(await sysctl('net.ipv4.vs.conntrack'), before);
});
