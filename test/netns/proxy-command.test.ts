import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { NSENTER } from './nftables-space.ts';
import { ended, SAFE, Stage, until } from './proxy-command-stage.ts';

const HEAD = 'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n';

test('it serves by flags, shows itself, keeps its rules when stopped, and cleans up when asked', async (t) => {
  const stage = new Stage(t);
  await stage.openApi();
  // What another mode, and kube-proxy itself, would have left.
  stage.load('table ip kube-proxy { comment "rules for kube-proxy"; }; table ip6 kube-proxy { }');
  const access = ['--kubeconfig', stage.kubeconfig, '--bind-address=127.0.0.1'];
  const counts = ['--count-connections', '--count_bytes'];
  const { child, said } = stage.start(
    'proxy',
    ...SAFE,
    ...access,
    ...counts,
    '--proxy-mode=nftables',
    '--v=4',
  );
  await until(() => said().includes('full sync'), said);
  t.true(stage.nft('list table ip fairlead-proxy').includes('10.96.7.7'));
  await until(() => !stage.nft('list tables').includes('ip kube-proxy'), said);
  t.true(stage.nft('list tables').includes('ip6 kube-proxy'), 'without the comment it is somebody else’s');

  const health = await stage.get('http://127.0.0.1:10256/healthz');
  t.regex(health, /^200 \{"lastUpdated":"[^"]+","currentTime":"[^"]+","nodeEligible":true,"healthy":true,/);
  t.regex(await stage.get('http://127.0.0.1:10256/livez'), /^200 /);
  t.is(await stage.get('http://127.0.0.1:10249/proxyMode'), '200 nftables');
  t.regex(await stage.get('http://127.0.0.1:10249/flagz'), /\nproxy-mode=nftables\n/);
  t.regex(
    await stage.get('http://127.0.0.1:10249/configz'),
    /"kubeproxy\.config\.k8s\.io":\{.*"mode":"nftables"/,
  );
  const metrics = await stage.get('http://127.0.0.1:10249/metrics');
  t.regex(metrics, /^kubeproxy_sync_full_proxy_rules_duration_seconds_count\{ip_family="IPv4"\} [1-9]/m);
  t.regex(metrics, /^# TYPE fairlead_proxy_service_connections_total counter$/m);
  t.regex(metrics, /^# TYPE fairlead_proxy_service_bytes_total counter$/m);
  t.regex(stage.nft('list map ip fairlead-proxy services'), /\bcounter\b/);

  child.kill('SIGTERM');
  t.is(await ended(child), 0, said());
  t.is(await stage.get('http://127.0.0.1:10256/healthz'), 'ECONNREFUSED');
  t.true(stage.nft('list table ip fairlead-proxy').includes('10.96.7.7'));

  const cleanup = stage.start('proxy', '--cleanup');
  t.is(await ended(cleanup.child), 0, cleanup.said());
  t.deepEqual(stage.nft('list tables').trim().split('\n').toSorted(), ['table ip6 kube-proxy']);
});

test('it serves by a file, ends when that changes, and goes on while the new one cannot be used', async (t) => {
  const stage = new Stage(t);
  await stage.openApi();
  const path = join(stage.folder, 'config.conf');
  const text = `${HEAD}conntrack: {maxPerCore: 0}\noomScoreAdj: 0\nmode: nftables\nclientConnection: {kubeconfig: ${stage.kubeconfig}}\nbindAddress: 127.0.0.1\nunknown: 1\n`;
  writeFileSync(path, text);
  const { child, said } = stage.start('proxy', '--config', path, '--hostname-override', 'node-1');
  await until(() => said().includes('full sync'), said);
  t.regex(said(), /is read leniently: unknown is not a field/);
  writeFileSync(path, `${text}mode: nothing\n`);
  await until(() => said().includes('the new configuration cannot be used'), said);
  t.is(child.exitCode, null);
  writeFileSync(path, text.replace('oomScoreAdj: 0', 'oomScoreAdj: 1'));
  t.is(await ended(child), 1);
  t.regex(said(), /config\.conf has changed: this process ends, to be started with it/);
});

test('one mode follows another, and takes away what that left when its own rules are in place', async (t) => {
  const stage = new Stage(t);
  await stage.openApi();
  const serve = async (mode: string) => {
    const access = ['--kubeconfig', stage.kubeconfig, '--bind-address=127.0.0.1', `--proxy-mode=${mode}`];
    const { child, said } = stage.start('proxy', ...SAFE, ...access);
    await until(() => said().includes('another mode left this'), said);
    const shown = await stage.get('http://127.0.0.1:10249/metrics');
    t.is(
      /^kubeproxy_sync_proxy_rules_iptables_total\{table="nat",ip_family="IPv4"\} [1-9]/m.test(shown),
      mode === 'iptables',
    );
    t.is(said().split('node ports do not answer on 127.0.0.1').length, mode === 'iptables' ? 1 : 2);
    child.kill('SIGINT');
    t.is(await ended(child), 0, said());
  };
  const chains = () => stage.inside('/usr/sbin/iptables-save');
  const localhost = async () =>
    (await stage.inside('/usr/sbin/sysctl', '-n', 'net.ipv4.conf.all.route_localnet')).trim();
  stage.load('table ip kube-proxy { comment "rules for kube-proxy"; }');
  await serve('nftables');
  t.true(stage.nft('list tables').includes('ip fairlead-proxy'));
  await serve('iptables');
  t.false(stage.nft('list tables').includes('fairlead-proxy'));
  t.regex(await chains(), /-A KUBE-SERVICES .*10\.96\.7\.7/);
  t.is(await localhost(), '1');
  await serve('nftables');
  t.false((await chains()).includes('KUBE-SERVICES'));
  t.true(stage.nft('list tables').includes('ip fairlead-proxy'));
  t.is(await localhost(), '0');
  await serve('iptables');
  t.is(await localhost(), '1');
  const { child, said } = stage.start('proxy', ...SAFE, '--cleanup');
  t.is(await ended(child), 0, said());
  t.false((await chains()).includes('KUBE-SERVICES'));
  t.is(await localhost(), '0');
});

test('a port in use ends it where that is wanted, and --init-only ends by itself', async (t) => {
  const stage = new Stage(t);
  await stage.inside('/usr/sbin/ip', 'link', 'set', 'lo', 'up');
  const init = stage.start('proxy', ...SAFE, '--init-only', '--conntrack-tcp-timeout-close-wait=59m');
  t.is(await ended(init.child), 0, init.said());
  t.is(
    (
      await stage.inside('/usr/sbin/sysctl', '-n', 'net.netfilter.nf_conntrack_tcp_timeout_close_wait')
    ).trim(),
    '3540',
  );
  const holder = `require('node:net').createServer().listen(10249, '127.0.0.1', () => console.log('listening'))`;
  const child = spawn(NSENTER, [`--net=${stage.path}`, process.execPath, '-e', holder]);
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const hard = stage.start('proxy', ...SAFE, '--master=http://127.0.0.1:1', '--bind-address-hard-fail');
  t.is(await ended(hard.child), 1);
  t.regex(hard.said(), /metrics: cannot listen on 127\.0\.0\.1:10249: .*EADDRINUSE/);
});

for (const mode of ['nftables', 'iptables']) {
  test(`fairlead cleanup takes away what a killed proxy left (${mode}), and puts settings back`, async (t) => {
    const stage = new Stage(t);
    await stage.openApi();
    const settings = async () => {
      const names = ['nf_conntrack_tcp_timeout_close_wait', 'nf_conntrack_udp_timeout', 'nf_conntrack_acct'];
      const keys = [...names.map((name) => `net.netfilter.${name}`), 'net.ipv4.conf.all.route_localnet'];
      return (await stage.inside('/usr/sbin/sysctl', '-n', ...keys)).split('\n').slice(0, -1);
    };
    const rules = async () => {
      const all = stage.nft('list ruleset') + (await stage.inside('/usr/sbin/iptables-save'));
      return all.split('\n').filter((line) => ofProxies.test(line) || line.includes('198.51.100.1'));
    };
    // What another program made of iptables stays.
    await stage.inside('/usr/sbin/iptables', '-A', 'FORWARD', '-s', '198.51.100.1', '-j', 'ACCEPT');
    const [before, rulesBefore] = [await settings(), await rules()];
    const access = ['--kubeconfig', stage.kubeconfig, '--bind-address=127.0.0.1', `--proxy-mode=${mode}`];
    const ours = ['--conntrack-tcp-timeout-close-wait=59m', '--conntrack-udp-timeout=31s', '--count-bytes'];
    const { child, said } = stage.start('proxy', ...SAFE, ...access, ...ours);
    await until(() => said().includes('full sync'), said);
    t.deepEqual(await settings(), ['3540', '31', '1', mode === 'iptables' ? '1' : '0']);

    const cleanup = async (...more: string[]) => {
      const places = ['--run-dir', stage.runDir, '--cni-bin-dir', join(stage.folder, 'bin')];
      const args = ['cleanup', ...places, '--cni-conf-dir', join(stage.folder, 'net.d'), ...more];
      const started = stage.start(...args);
      return { code: await ended(started.child), said: started.said };
    };
    const refused = await cleanup();
    t.is(refused.code, 1);
    t.regex(refused.said(), /a service proxy uses .* \(process \d+\); stop it first, or use --force/);

    child.kill('SIGKILL');
    await ended(child);
    // A setting that somebody else has changed since is theirs.
    await stage.inside('/usr/sbin/sysctl', '-qw', 'net.netfilter.nf_conntrack_udp_timeout=77');
    const dry = await cleanup('--dry-run');
    t.is(dry.code, 0, dry.said());
    const rows =
      mode === 'nftables'
        ? /would remove nftables ip fairlead-proxy\n/
        : /would remove proxy chain IPv4 nat KUBE-SERVICES\n/;
    t.regex(dry.said(), rows);
    t.regex(dry.said(), /would remove sysctl net\/netfilter\/nf_conntrack_tcp_timeout_close_wait\n/);
    t.false(dry.said().includes('nf_conntrack_udp_timeout'));
    t.deepEqual((await settings())[0], '3540');

    const cleaned = await cleanup();
    t.is(cleaned.code, 0, cleaned.said());
    t.deepEqual(await settings(), [before[0], '77', before[2], before[3]]);
    t.deepEqual(await rules(), rulesBefore);
    t.false(existsSync(stage.runDir));
    t.regex((await cleanup()).said(), /nothing of Fairlead is here/);
  });
}

test('chains of kube-proxy are not ours to clean up', async (t) => {
  const stage = new Stage(t);
  await stage.inside('/usr/sbin/iptables', '-t', 'nat', '-N', 'KUBE-SERVICES');
  const places = ['--run-dir', stage.runDir, '--cni-bin-dir', join(stage.folder, 'bin')];
  const { child, said } = stage.start('cleanup', ...places, '--cni-conf-dir', join(stage.folder, 'net.d'));
  t.is(await ended(child), 0, said());
  t.regex(said(), /nothing of Fairlead is here/);
  t.regex(await stage.inside('/usr/sbin/iptables-save'), /:KUBE-SERVICES/);
});

test('the status of a proxy by itself', async (t) => {
  const stage = new Stage(t);
  await stage.openApi();
  const access = ['--kubeconfig', stage.kubeconfig, '--bind-address=127.0.0.1', '--proxy-mode=nftables'];
  const { said } = stage.start('proxy', ...SAFE, ...access);
  await until(() => said().includes('full sync'), said);
  const status = async (...more: string[]) => {
    const { child, said: shown } = stage.start('status', '--run-dir', stage.runDir, ...more);
    t.is(await ended(child), 0, shown());
    return shown();
  };
  const text = await status();
  t.regex(text, /^node {2,}node-1$/m);
  t.regex(text, /^ready {2,}yes$/m);
  t.regex(text, /^proxy mode {2,}nftables$/m);
  t.regex(text, /^proxy services {2,}\d+ with \d+ endpoints$/m);
  t.regex(text, /^proxy last sync {2,}\d{4}-.*Z \([\d.]+ ms\)$/m);
  t.regex(text, /^proxy problems {2,}none$/m);
  t.like(JSON.parse(await status('-o', 'json')), {
    name: 'node-1',
    ready: true,
    proxy: { mode: 'nftables', synced: true, problems: [] },
  });
});

/** Lines of rulesets that a service proxy makes; KUBE-FIREWALL is kubelet's as well, and stays. */
const ofProxies = /fairlead|KUBE-(?!FIREWALL)/;
