import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'ava';
import { givenFlags, nodeCommand } from '../../cli/node.ts';
import { flannelFlags } from '../../daemon/flannel-flag-table.ts';
import { certificates } from '../daemon/certificates.ts';
import { EtcdServer } from '../daemon/etcd-server.ts';

const CLI = join(import.meta.dirname, '../../cli/main.ts');
const shared = flannelFlags.filter((flag) => flag.shared);

function given(...args: string[]): Record<string, readonly string[]> {
  const command = nodeCommand();
  command.parseOptions(args);
  return Object.fromEntries(givenFlags(command));
}

test('what fairlead node shares with flanneld is taken as flanneld takes it', (t) => {
  t.deepEqual(given('--pod-cidr', '10.1.0.0/24'), {});
  const values = { boolean: 'false', number: '7', text: 'x', texts: 'x' };
  for (const { name, kind } of shared)
    t.deepEqual(given(`--${name}=${values[kind]}`), { [name]: [values[kind]] }, name);
  t.deepEqual(given('--iface', 'eth0', '--iface', 'eth1', '--ip-blackhole-route'), {
    iface: ['eth0', 'eth1'],
    'ip-blackhole-route': ['true'],
  });
});

test('fairlead node speaks to etcd with certificates, and says which option is wrong', async (t) => {
  const tls = certificates(t);
  await using etcd = await EtcdServer.start({ tls });
  const run = (...more: string[]) => {
    const args = ['node', '--run-dir', '/nonexistent/run', '--etcd-endpoints', etcd.endpoint, ...more];
    return spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8', timeout: 60_000 });
  };
  const files = [`--etcd-cafile=${tls.ca}`, `--etcd-certfile=${tls.cert}`];
  const { status, stderr } = run(...files, `--etcd-keyfile=${tls.key}`, '--etcd-prefix=/net');
  t.is(status, 1);
  t.regex(stderr, /\/net\/config/, 'it asks, and nothing is there');
  const wrong = run(...files, '--subnet-lease-renew-margin=0');
  t.is(wrong.status, 2);
  t.regex(wrong.stderr, /--etcd-certfile: is given without --etcd-keyfile/);
  t.regex(wrong.stderr, /--subnet-lease-renew-margin: is not a whole number from 1 to 1439: "0"/);
});
