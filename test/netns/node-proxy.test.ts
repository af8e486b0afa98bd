import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import test from 'ava';
import type { Cluster } from '../../cli/cluster/cluster.ts';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import type { ProxyReport } from '../../cli/proxy-status.ts';
import { openCluster } from './lab.ts';

const run = promisify(execFile);

async function proxyOf(cluster: Cluster, holds: (report: ProxyReport) => boolean): Promise<ProxyReport> {
  const [node] = cluster.lab.nodes;
  for (const end = performance.now() + 60_000; ; await sleep(50)) {
    const report = node && (await cluster.status(node))?.proxy;
    if (report !== undefined && holds(report)) return report;
    if (performance.now() > end) throw new Error(`it does not come: ${JSON.stringify(report)}`);
  }
}

test('the agent serves as the proxy does by itself, and starts it anew with a new configuration', async (t) => {
  const cluster = await openCluster(t, { nodes: 1, backend: 'host-gw' });
  const [node] = cluster.lab.nodes;
  if (node === undefined) throw new Error('no node');
  const pid = (await cluster.status(node))?.pid;
  const first = await proxyOf(cluster, ({ synced }) => synced);
  t.like(first, { mode: 'nftables', problems: [] });
  t.truthy(first.lastSync);

  const get = async (port: number, path: string) => {
    const program = `fetch(process.argv[1]).then(async (r) => console.log(r.status, await r.text()))`;
    const words = [process.execPath, '-e', program, `http://127.0.0.1:${port}${path}`];
    const [command, args] = inNamespace(node.namespace, words);
    return (await run(command, args)).stdout.trimEnd();
  };
  t.regex(await get(10_256, '/healthz'), /^200 .*"nodeEligible":true,"healthy":true/);
  t.is(await get(10_249, '/proxyMode'), '200 nftables');
  t.regex(await get(10_249, '/metrics'), /^kubeproxy_sync_proxy_rules_duration_seconds_count/m);

  const path = cluster.paths.proxyConfig(node.name);
  writeFileSync(path, readFileSync(path, 'utf8').replace('nftables', 'iptables'));
  t.like(await proxyOf(cluster, ({ mode, synced }) => mode === 'iptables' && synced), { problems: [] });
  t.is(await get(10_249, '/proxyMode'), '200 iptables');
  t.is((await cluster.status(node))?.pid, pid, 'the agent went on');
});
