import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { renderFlannelHelp } from '../../cli/flannel.ts';
import { flannelLogLevel, ownName } from '../../cli/flannel-run.ts';
import { VERSION } from '../../cli/version.ts';
import { flannelFlags } from '../../daemon/flannel-flag-table.ts';
import { parseFlannelFlags } from '../../daemon/flannel-flags.ts';

const FAIRLEAD = fileURLToPath(new URL('../../fairlead', import.meta.url));

test('by the name flanneld, the program has its command line', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-test-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const flanneld = join(directory, 'flanneld');
  symlinkSync(FAIRLEAD, flanneld);
  const run = (...args: string[]) => execFileSync(flanneld, args, { encoding: 'utf8' });
  t.is(run('--version'), `${VERSION}\n`);
  t.is(run('-ip-masq=false', '-version', '--etcd-endpoints', 'http://x:1'), `${VERSION}\n`);
  t.is(run('-help'), renderFlannelHelp());
  const wrong = spawnSync(flanneld, ['--iface-regex', '(', '--no-flag'], { encoding: 'utf8' });
  t.is(wrong.status, 2);
  t.regex(wrong.stderr, /--iface-regex: is not a regular expression/);
  t.regex(wrong.stderr, /--no-flag: is not a flag of flanneld's/);
});

test('the help names every flag with its default', (t) => {
  const help = renderFlannelHelp();
  for (const { name } of flannelFlags) t.regex(help, new RegExp(`^  --${name}( <|$)`, 'm'));
  t.regex(help, /--etcd-prefix <text>\n.*\(default: \/coreos.com\/network\)/);
  t.regex(help, /FLANNELD_ETCD_PREFIX/);
});

test('the log says as much as the verbosity asks for', (t) => {
  t.deepEqual([0, 2, 3, 5, 6, 10].map(flannelLogLevel), ['info', 'info', 'debug', 'debug', 'trace', 'trace']);
});

test('a name that is not the node’s alone is refused, because two nodes would be one to their peers', (t) => {
  t.is(ownName('Node-1.example '), 'node-1.example');
  for (const bad of ['localhost', 'localhost.localdomain'])
    t.throws(() => ownName(bad), { message: /^environment: NODE_NAME: is missing/ }, bad);
});

test('what is asked for and not done is said', (t) => {
  t.deepEqual(parseFlannelFlags([], {}).warnings, []);
  t.deepEqual(parseFlannelFlags(['--ip-blackhole-route', '--vmodule=x'], {}).warnings, [
    '--vmodule has no effect',
  ]);
});
