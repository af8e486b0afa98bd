import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CniNode, execIn, type Pod } from '../cni/node.ts';
import { factOf, missingProgram } from './missing.ts';

const reference = '/usr/lib/cni';
const referenceTest = factOf(missingProgram(join(reference, 'bridge')), test);

/** Calls a reference plugin as the runtime of the node would. */
async function callReference(node: CniNode, type: string, { containerId, netns }: Pod, config: object) {
  const env = {
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: containerId,
    CNI_NETNS: netns,
    CNI_IFNAME: 'eth0',
    CNI_PATH: reference,
    PATH: process.env.PATH ?? '',
  };
  const child = spawn('nsenter', [`--net=${node.namespace}`, join(reference, type)], { env });
  child.stdin.end(JSON.stringify(config));
  const chunks: Buffer[] = [];
  for await (const chunk of child.stdout) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString());
}

referenceTest(
  'a chain that the reference plugins attached is detached by ours, and the address is free',
  async (t) => {
    const node = CniNode.open(t);
    await node.start();
    const dataDir = join(node.directory, 'networks');
    const ipam = { type: 'host-local', subnet: '10.88.0.0/30', dataDir };
    const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];
    const base = { cniVersion: '1.0.0', name: 'chain' };
    const plugins: readonly { readonly type: string }[] = [
      { type: 'bridge', ...{ bridge: 'br0', isGateway: true, ipam } },
      { type: 'portmap', ...{ backend: 'iptables', runtimeConfig: { portMappings } } },
      { type: 'tuning', ...{ mtu: 1400 } },
    ];
    const pod = node.pod();
    let prevResult: object | undefined;
    for (const plugin of plugins) {
      prevResult = await callReference(node, plugin.type, pod, { ...base, ...plugin, prevResult });
      t.like(prevResult, { cniVersion: '1.0.0' }, JSON.stringify(prevResult));
    }
    t.regex(await execIn(pod.netns, 'ip', 'link', 'show', 'eth0'), /mtu 1400/);
    for (let time = 0; time < 2; time += 1) {
      for (const plugin of plugins.toReversed()) {
        const { stdout } = await node.call('DEL', { ...pod, config: { ...base, ...plugin, prevResult } });
        t.is(stdout, '', plugin.type);
      }
    }
    t.deepEqual(
      readdirSync(join(dataDir, 'chain')).filter((name) => name.startsWith('10.')),
      [],
    );
    const [bridge = {}] = plugins;
    const next = await node.call('ADD', { ...node.pod(), config: { ...base, ...bridge } });
    t.is(next.exitCode, 0, `the only address of the network: ${next.stdout}`);
  },
);
