import test from 'ava';
import type { Mac } from '../../core/address.ts';
import { type PodSetting, PodSettings, podSettingKey } from '../../kernel/pod-setting.ts';
import { make, openSpace, type Space, settle } from './kernel-space.ts';

const settings: readonly PodSetting[] = [
  { kind: 'sysctl', name: 'net/core/somaxconn', value: '500' },
  { kind: 'sysctl', name: 'net/ipv4/ip_local_port_range', value: '2000 3000' },
  { kind: 'sysctl', name: 'net/ipv4/conf/e0.1/arp_filter', value: '1' },
  { kind: 'mac', ifname: 'e0.1', value: '02:00:00:00:00:aa' as Mac },
  { kind: 'promiscuous', ifname: 'e0.1', value: true },
  { kind: 'mtuBytes', ifname: 'e0.1', value: 1400 },
  { kind: 'allMulticast', ifname: 'e0.1', value: true },
  { kind: 'txQueueLength', ifname: 'e0.1', value: 77 },
];

function addLink({ ip }: Space): void {
  ip('link add e0.1 address 02:00:00:00:00:01 type veth peer name peer\nlink set peer up\nlink set e0.1 up');
}

function stateOf(space: Space): unknown {
  const [link] = space.show('link show dev e0.1');
  const { address, mtu, txqlen, flags } = link ?? {};
  return { address, mtu, txqlen, flags: (flags as string[]).filter((flag) => /PROMISC|ALLMULTI/.test(flag)) };
}

test('settings are made, are as ip shows them, and are as before when they are removed', async (t) => {
  const space = openSpace(t);
  addLink(space);
  const before = stateOf(space);
  const fresh = new PodSettings({ namespaceFd: space.fd, settings });
  const captured = await fresh.capture();
  t.deepEqual(
    captured.map(({ previous }) => `${previous}`.slice(0, 20)),
    ['4096', '32768 60999', '0', '02:00:00:00:00:01', 'false', '1500', 'false', '1000'],
  );
  const table = new PodSettings({ namespaceFd: space.fd, settings: captured });
  t.is(await settle(t, table, podSettingKey, captured), settings.length);
  t.deepEqual(stateOf(space), {
    address: '02:00:00:00:00:aa',
    mtu: 1400,
    txqlen: 77,
    flags: ['ALLMULTI', 'PROMISC'],
  });
  t.deepEqual((await make(table, podSettingKey, [])).failures, []);
  t.deepEqual(stateOf(space), before);
  const again = await fresh.capture();
  t.deepEqual(again, captured);
});

test('a setting without a value before stays when it is removed', async (t) => {
  const space = openSpace(t);
  addLink(space);
  const table = new PodSettings({ namespaceFd: space.fd, settings });
  await settle(t, table, podSettingKey, settings);
  const changed = stateOf(space);
  t.deepEqual((await make(table, podSettingKey, [])).failures, []);
  t.deepEqual(stateOf(space), changed);
});

test('removing settings of an interface that is gone is no failure', async (t) => {
  const space = openSpace(t);
  addLink(space);
  const captured = await new PodSettings({ namespaceFd: space.fd, settings }).capture();
  const table = new PodSettings({ namespaceFd: space.fd, settings: captured });
  await settle(t, table, podSettingKey, captured);
  space.ip('link del e0.1');
  const removals = captured.map(
    (actual) => ({ kind: 'delete', key: podSettingKey(actual), actual }) as const,
  );
  t.deepEqual(await table.write(removals), []);
  t.is((await table.read()).get('sysctl net/core/somaxconn')?.value, '4096');
});

test('what the container has not, and what the kernel refuses, are failures, and the others are made', async (t) => {
  const space = openSpace(t);
  addLink(space);
  const impossible: PodSetting[] = [
    { kind: 'sysctl', name: 'net/nothing', value: '1' },
    { kind: 'sysctl', name: 'net/ipv4/ip_local_port_range', value: 'x' },
    { kind: 'mtuBytes', ifname: 'gone', value: 1400 },
    { kind: 'mtuBytes', ifname: 'e0.1', value: 70_000 },
    { kind: 'txQueueLength', ifname: 'e0.1', value: 77 },
  ];
  const table = new PodSettings({ namespaceFd: space.fd, settings: impossible });
  t.deepEqual((await make(table, podSettingKey, impossible)).failures, [
    'create sysctl net/nothing: ENOENT',
    'update sysctl net/ipv4/ip_local_port_range: EINVAL',
    'create mtuBytes gone: ENODEV',
    'update mtuBytes e0.1: EINVAL',
  ]);
  t.is(space.show('link show dev e0.1')[0]?.txqlen, 77);
});

test('only the namespace that is given is changed', async (t) => {
  const [space, other] = [openSpace(t), openSpace(t)];
  addLink(space);
  addLink(other);
  const before = stateOf(other);
  await settle(t, new PodSettings({ namespaceFd: space.fd, settings }), podSettingKey, settings);
  t.deepEqual(stateOf(other), before);
});
