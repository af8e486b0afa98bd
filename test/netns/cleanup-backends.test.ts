import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import test from 'ava';
import { Machine } from './cleanup-machine.ts';
import { factOf, missingLink } from './missing.ts';

// What single backends, and nothing else, leave on a node.

for (const [backend, devices] of [
  ['udp', ['fl-udp']],
  ['ipip', ['fl-ipip']],
  ['wireguard', ['fl-wg']],
] as const) {
  const missing = backend === 'udp' ? undefined : missingLink(backend);
  factOf(missing, test)(
    `cleanup removes the device of ${backend}, its key, and subnet.env where the agent wrote it`,
    async (t) => {
      const machine = new Machine(t);
      machine.run('/usr/sbin/sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
      machine.space.ip('link add fl-other type bridge\nlink set fl-other addrgenmode none');
      mkdirSync(machine.path('env'));
      writeFileSync(machine.path('env', 'other.env'), '');
      const before = machine.state();
      const file = machine.path('env', 'subnet.env');
      await machine.start('--pod-cidr', '10.99.0.0/24', '--backend', backend, '--subnet-file', file);
      await machine.until(() => existsSync(file) && devices.every((name) => machine.state().includes(name)));
      if (backend === 'wireguard') t.true(existsSync(machine.path('run', 'wireguard.key')));
      await machine.stop('SIGKILL');
      const cleaned = await machine.fairlead('cleanup', '-o', 'json');
      t.is(cleaned.code, 0, cleaned.stderr);
      const { removed } = JSON.parse(cleaned.stdout);
      t.deepEqual(
        removed.link.filter((name: string) => name !== 'cni0'),
        devices,
      );
      t.true(removed.file.includes(file));
      t.is(machine.state(), before);
      t.false(existsSync(file));
      t.true(existsSync(machine.path('env', 'other.env')));
      t.false(existsSync(machine.path('run')));
    },
  );
}
