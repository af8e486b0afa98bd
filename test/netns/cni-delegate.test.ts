import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { CniNode, execIn, type Pod } from '../cni/node.ts';
import { factOf, missingProgram } from './missing.ts';

const shim = fileURLToPath(new URL('../../.cache/native/fairlead-cni', import.meta.url));
const reference = '/usr/lib/cni';
const referenceTest = factOf(missingProgram(join(reference, 'ptp')), test);

/** A node with flannel's conflist whose delegate is none of our types: the reference's ptp under another name. */
async function setUp(t: ExecutionContext, hostLocal: 'reference' | 'ours') {
  const node = CniNode.open(t);
  await node.start();
  const [bin, own, dataDir] = ['bin', 'own', 'networks'].map((name) => join(node.directory, name)) as [
    string,
    string,
    string,
  ];
  for (const directory of [bin, own]) mkdirSync(directory);
  copyFileSync(join(reference, 'ptp'), join(bin, 'routed'));
  if (hostLocal === 'reference') copyFileSync(join(reference, 'host-local'), join(bin, 'host-local'));
  else {
    copyFileSync(shim, join(own, 'host-local'));
    // What a runtime would have in its environment, were the socket not where it is by default.
    const script = `#!/bin/sh\nFAIRLEAD_SOCKET=${node.socketPath} exec ${own}/host-local\n`;
    writeFileSync(join(bin, 'host-local'), script);
    chmodSync(join(bin, 'host-local'), 0o755);
  }
  const subnetFile = join(node.directory, 'subnet.env');
  const lines = ['NETWORK=10.244.0.0/16', 'SUBNET=10.244.3.1/24', 'MTU=1450', 'IPMASQ=true'];
  writeFileSync(subnetFile, lines.map((line) => `FLANNEL_${line}\n`).join(''));
  const config = {
    cniVersion: '1.0.0',
    name: 'cbr0',
    type: 'flannel',
    subnetFile,
    delegate: { type: 'routed' },
    ipam: { dataDir },
  };
  const call = (verb: string, pod: Partial<Pod>, more: object = {}) =>
    node.call(verb, { containerId: '', ...pod, config: { ...config, ...more }, env: { CNI_PATH: bin } });
  const files = () => {
    const directory = join(dataDir, 'cbr0');
    return existsSync(directory) ? readdirSync(directory).filter((name) => name.startsWith('10.')) : [];
  };
  return { node, call, files };
}

for (const hostLocal of ['reference', 'ours'] as const) {
  referenceTest(
    `flannel's delegate may be a program of others, with host-local of ${hostLocal}`,
    async (t) => {
      const { node, call, files } = await setUp(t, hostLocal);
      const pod = node.pod();
      const added = await call('ADD', pod);
      t.is(added.exitCode, 0, added.stdout);
      const result = JSON.parse(added.stdout);
      t.is(result.ips[0].address, '10.244.3.2/24');
      t.regex(await execIn(pod.netns, 'ip', '-o', 'addr', 'show', 'eth0'), /mtu 1450|10\.244\.3\.2\/24/);
      t.deepEqual(files(), hostLocal === 'reference' ? ['10.244.3.2'] : []);
      const checked = await call('CHECK', pod, { prevResult: result });
      // The reference of 2022 does not find its own route that has no gateway.
      t.regex(checked.stdout, /^$|Expected Route/);
      const again = await call('ADD', pod);
      t.regex(again.stdout, /interface \\"eth0\\" already exists/);
      const deleted = await call('DEL', pod, { prevResult: result });
      t.is(deleted.exitCode, 0, deleted.stdout);
      t.deepEqual(files(), []);
      t.deepEqual(node.leases(), []);
      t.deepEqual(await node.links(), []);
      t.is((await call('DEL', pod)).exitCode, 0);
    },
  );
}

referenceTest("GC tells flannel's delegate, and takes what it made", async (t) => {
  const { node, call, files } = await setUp(t, 'reference');
  const [kept, stale] = [node.pod(), node.pod()];
  for (const pod of [kept, stale]) t.is((await call('ADD', pod)).exitCode, 0);
  const valid = [{ containerID: kept.containerId, ifname: 'eth0' }];
  const more = { cniVersion: '1.1.0', 'cni.dev/valid-attachments': valid };
  // That of 2022 does not know the verb.
  t.regex((await call('GC', {}, more)).stdout, /^$|unknown CNI_COMMAND: GC|missing containerID/);
  t.deepEqual(files(), ['10.244.3.2']);
  t.deepEqual(node.leases(), [`cbr0/${kept.containerId}/eth0 flannel`]);
});

referenceTest("a delegate's own error is told, and one that is not there is named", async (t) => {
  const { node, call, files } = await setUp(t, 'reference');
  const pod = node.pod();
  t.regex(
    (await call('ADD', pod, { delegate: { type: 'nowhere' } })).stdout,
    /failed to find plugin \\"nowhere\\"/,
  );
  t.regex(
    (await call('ADD', pod, { delegate: { type: 'routed', mtu: 'x' } })).stdout,
    /failed to load netconf/,
  );
  t.deepEqual([files(), node.leases()], [[], []]);
});
