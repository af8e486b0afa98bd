import test from 'ava';
import { bridgeLayout } from '../../cni/nft-bridge-layout.ts';
import { cniLayout, cniSets } from '../../cni/nft-layout.ts';
import { type HostPort, hostPortElement } from '../../cni/types/hostport.ts';
import { planMasquerade } from '../../cni/types/masquerade.ts';
import { parsePortConditions } from '../../cni/types/port-conditions.ts';
import { guardElements } from '../../cni/types/port-guards.ts';
import { scopeElements } from '../../cni/types/scope.ts';
import { planSpoofCheck } from '../../cni/types/spoof-check.ts';
import { familyOf, type HostCidr, type Ip, type Mac, networkOf } from '../../core/address.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { NftTable } from '../../kernel/nftables.ts';
import { openNftSpace, settle } from './nftables-space.ts';

const addresses = ['10.1.0.5/24', 'fd00:1::5/64'] as HostCidr[];
const port = { protocol: 'tcp', hostPort: 8080, containerPort: 80 } as const;
const elements = [
  ...planMasquerade(addresses),
  ...addresses.flatMap((address) => {
    const { hostportPods, hostportSources } = cniSets(familyOf(address));
    return scopeElements({ pods: hostportPods, ranges: hostportSources }, address, [networkOf(address)]);
  }),
  hostPortElement({ ...port, family: 4, pod: '10.1.0.5' as Ip }),
  hostPortElement({ ...port, family: 6, pod: 'fd00:1::5' as Ip, hostIp: '2001:db8::1' as Ip }),
  ...guardsOf(
    { ...port, family: 4, pod: '10.1.0.5' as Ip },
    'ip saddr != 10.0.0.0/8 iifname eth0 mark { 1, 2 }',
  ),
  ...guardsOf(
    { ...port, family: 6, pod: 'fd00:1::5' as Ip },
    'ip6 daddr 2001:db8::1 iifname != wg0 mark != 3',
  ),
];

function guardsOf(of: HostPort, words: string): readonly NftElement[] {
  const conditions = parsePortConditions([words], of.family);
  if (typeof conditions === 'string') throw new Error(conditions);
  return guardElements(of, conditions) ?? [];
}

const bridgeElements = planSpoofCheck({ port: 'port1', mac: '0a:58:0a:01:00:05' as Mac, addresses });

function byKey(rows: readonly NftElement[]): Map<string, NftElement> {
  return new Map(rows.map((row) => [nftElementKey(row), row]));
}

test('nft lists the tables of the attachments, and reads its own listing', async (t) => {
  const { socket, nft, load } = openNftSpace(t);
  const table = new NftTable({ socket, layout: cniLayout });
  const bridgeTable = new NftTable({ socket, layout: bridgeLayout });
  await settle(t, table, byKey(elements));
  await settle(t, bridgeTable, byKey(bridgeElements));
  t.is(await settle(t, table, byKey(elements)), 0);
  t.is(await settle(t, bridgeTable, byKey(bridgeElements)), 0);
  const listing = nft('list ruleset');
  t.regex(listing, /elements = \{ tcp \. 8080 : 10\.1\.0\.5 \. 80 \}/);
  t.regex(listing, /elements = \{ "port1" \. 0a:58:0a:01:00:05 \}/);
  nft('flush ruleset');
  load(listing);
  t.is(nft('list ruleset'), listing);
});

test('the thousandth pod costs hardly more than the first', async (t) => {
  const { socket } = openNftSpace(t);
  const table = new NftTable({ socket, layout: cniLayout });
  await settle(t, table, new Map());
  const timesMs: number[] = [];
  for (let index = 0; index < 1000; index += 1) {
    const [high, low] = [index >> 8, index & 255];
    const pod = [`10.1.${high}.${low}/16`, `fd00:1::${index.toString(16)}/64`] as HostCidr[];
    const changes = planMasquerade(pod).map((wanted) => ({
      kind: 'create' as const,
      key: nftElementKey(wanted),
      wanted,
    }));
    const begin = performance.now();
    t.deepEqual(await table.write(changes), []);
    timesMs.push(performance.now() - begin);
  }
  // The quickest: the others tell what else the machine did.
  const [first, last] = [Math.min(...timesMs.slice(0, 100)), Math.min(...timesMs.slice(-100))];
  t.log(`first hundred ${first.toFixed(3)} ms, last hundred ${last.toFixed(3)} ms`);
  t.true(last < 3 * first + 1, `${first} ms, then ${last} ms`);
});
