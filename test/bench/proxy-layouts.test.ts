import test from 'ava';
import type { Layout } from '../../bench/proxy/layout.ts';
import { iptables } from '../../bench/proxy/layout-iptables.ts';
import { nft130, nft136 } from '../../bench/proxy/layout-nftables.ts';
import { ENDPOINTS_EACH, World } from '../../bench/proxy/world.ts';

const SERVICES = 3;

function load(layout: Layout): string[] {
  return [...layout.load(new World(SERVICES).services())];
}

function change(layout: Layout): string[] {
  const world = new World(SERVICES);
  const { before, after } = world.replaceEndpoint();
  return [...layout.change(before, after, world.services())];
}

function count(lines: readonly string[], pattern: RegExp): number {
  return lines.filter((line) => pattern.test(line)).length;
}

test('the layout of 1.36 has a chain with one rule for each Service, and two elements', (t) => {
  const lines = load(nft136);
  t.is(count(lines, /^add chain \S+ \S+ service-\w{8}-default/), SERVICES);
  t.is(count(lines, /^add rule \S+ \S+ service-\w{8}-default.* dnat ip addr \. port to numgen/), SERVICES);
  t.is(count(lines, /^add element/), 2 * SERVICES);
  t.deepEqual(
    change(nft136).map((line) => line.split(' ').slice(0, 2).join(' ')),
    ['add chain', 'flush chain', 'add rule'],
  );
});

test('the layout of 1.30 has a chain with two rules for each endpoint', (t) => {
  const lines = load(nft130);
  t.is(count(lines, /^add chain \S+ \S+ endpoint-/), SERVICES * ENDPOINTS_EACH);
  t.is(count(lines, /^add rule \S+ \S+ endpoint-/), 2 * SERVICES * ENDPOINTS_EACH);
  t.is(count(lines, /^add rule \S+ \S+ service-[0-9A-F]{8}-/), 2 * SERVICES);
  t.is(count(change(nft130), /^delete chain/), 1);
});

test('iptables has five rules, and for each Service two and three for each endpoint', (t) => {
  // Beside them the jumps from the kernel's own chains.
  const rules = count(load(iptables), /^-A KUBE-/);
  t.is(rules, 5 + SERVICES * (2 + 3 * ENDPOINTS_EACH));
});

test('a change of iptables writes the dispatch of all Services and the chains of one', (t) => {
  const lines = change(iptables);
  t.is(count(lines, /^-A KUBE-SERVICES -d/), SERVICES);
  t.is(count(lines, /^-A KUBE-SEP/), 2 * ENDPOINTS_EACH);
  t.is(count(lines, /^-X KUBE-SEP/), 1);
});
