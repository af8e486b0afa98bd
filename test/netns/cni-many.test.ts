import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { buildRunner, type Job, runJobs } from '../../bench/cni/runner.ts';
import { cniLayout } from '../../cni/nft-layout.ts';
import { queueDirectoryOf } from '../../cni/queue.ts';
import { hostCidr } from '../../core/address.ts';
import { decodeAddress, encodeAddressDump } from '../../kernel/netlink/route/address.ts';
import { AF_UNSPEC, RTM_GETADDR } from '../../kernel/netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { NftTable, openNftSocket } from '../../kernel/nftables.ts';
import { CniNode, eventually, type Pod, testConfig } from '../cni/node.ts';

const shim = fileURLToPath(new URL('../../.cache/native/fairlead-cni', import.meta.url));
const count = 1_000;
const atOnce = 64;
const hostPortFirst = 20_000;
const ifname = 'eth0';

/** Dual stack, masqueraded, one published port each. */
function config(index: number): object {
  const hostPort = hostPortFirst + index;
  return testConfig({
    ipMasq: true,
    ipam: { ranges: [[{ subnet: '10.55.0.0/20' }], [{ subnet: 'fd55::/64' }]] },
    runtimeConfig: { portMappings: [{ hostPort, containerPort: 80, protocol: 'tcp' }] },
  });
}

/** What the kernel says that the container has, without lo and link-local addresses. */
async function addressesIn({ netns }: Pod): Promise<string[]> {
  using namespace = openNamespace(netns);
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: namespace.fd });
  const payload = encodeAddressDump(AF_UNSPEC);
  const messages = await socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation: 'RTM_GETADDR' });
  const addresses = messages.map((message) => decodeAddress(message.payload));
  const own = addresses.map(({ ip, prefixLength }) => hostCidr(ip, prefixLength));
  return own.filter((address) => /^(10\.55\.|fd55:)/.test(address));
}

async function elementsOf({ namespace }: CniNode): Promise<number> {
  using inside = openNamespace(namespace);
  using socket = openNftSocket({ namespaceFd: inside.fd });
  return (await new NftTable({ socket, layout: cniLayout }).read()).size;
}

/** Entries of the queue, and what was set aside. */
function queued({ socketPath }: CniNode): string[] {
  return readdirSync(queueDirectoryOf(socketPath), { recursive: true }).map(String);
}

test('1,000 ADD and DEL, 64 at a time: no error, no address twice, nothing left', async (t) => {
  t.timeout(300_000);
  const node = CniNode.open(t);
  await node.start();
  const runner = buildRunner(node.directory);
  const pods = Array.from({ length: count }, () => node.pod());
  const jobsOf = (verb: string, some: readonly Pod[]): Job[] =>
    some.map((pod) => {
      const input = join(node.directory, `${pods.indexOf(pod)}.json`);
      const { containerId, netns } = pod;
      const env = {
        CNI_COMMAND: verb,
        CNI_CONTAINERID: containerId,
        CNI_NETNS: netns,
        CNI_IFNAME: ifname,
        CNI_PATH: '/opt/cni/bin',
        FAIRLEAD_SOCKET: node.socketPath,
      };
      return { namespace: node.namespace, chain: [{ input, program: shim }], env };
    });
  pods.forEach((_, index) => {
    writeFileSync(join(node.directory, `${index}.json`), JSON.stringify(config(index)));
  });
  const run = async (verb: string, some: readonly Pod[]) => {
    const outcomes = await runJobs(runner, jobsOf(verb, some), atOnce);
    t.is(outcomes.length, some.length);
    t.is(outcomes.filter(({ exitCode }) => exitCode !== 0).length, 0, `${verb} failed`);
  };
  // The bridge is there from now on.
  await run('ADD', pods.slice(0, 1));
  await run('DEL', pods.slice(0, 1));
  t.true(await eventually(async () => (await node.pairs()).length === 0));
  const before = { links: await node.links(), addresses: await node.exec('ip', '-o', 'addr') };
  const [descriptors, elements] = [await node.descriptorsAtRest(), await elementsOf(node)];
  await run('ADD', pods);
  t.is((await node.pairs()).length, count);
  t.is(node.leases().length, count);
  t.true((await elementsOf(node)) >= elements + count);
  const held = (await Promise.all(pods.map(addressesIn))).flat();
  t.is(held.length, 2 * count, 'each has one address of each family');
  t.is(new Set(held).size, held.length, 'none has the address of another');
  await run('DEL', pods);
  // What took longer than the shim waits is done a little later.
  t.true(await eventually(async () => queued(node).length === 0, 60_000));
  t.true(await eventually(async () => (await node.pairs()).length === 0, 60_000));
  t.deepEqual(await node.links(), before.links);
  t.is(await node.exec('ip', '-o', 'addr'), before.addresses);
  t.deepEqual((await Promise.all(pods.map(addressesIn))).flat(), []);
  t.deepEqual(node.leases(), []);
  t.is(await elementsOf(node), elements);
  t.true(await eventually(async () => node.descriptors() <= descriptors), `${node.descriptors()}`);
  const errors = node.log.filter((line) => line.includes('"level":"error"'));
  t.deepEqual(errors, []);
});
