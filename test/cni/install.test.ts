import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import {
  conflistName,
  earlierConfigs,
  installConflist,
  installPlugins,
  isOurPlugin,
  ownConflist,
  ownPlugins,
  pluginNames,
  removePlugin,
  renderConflist,
} from '../../cni/install.ts';
import { parseRequest } from '../../cni/request.ts';

const ELF = '\x7fELF';
const MARK = 'Fairlead CNI plugin: passes each call to the fairlead node daemon';

interface Places {
  readonly shimPath: string;
  readonly directory: string;
}

/** A shim as its content shows it, and a directory that does not exist yet. */
function places(t: ExecutionContext): Places {
  const path = mkdtempSync(join(tmpdir(), 'fairlead-install-'));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  const shimPath = join(path, 'shim');
  writeFileSync(shimPath, `${ELF} ${MARK} two`);
  return { shimPath, directory: join(path, 'bin') };
}

function foreign({ directory }: Places, name: string): string {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, name), `${ELF} another`);
  return join(directory, name);
}

const outcomes = (installed: ReturnType<typeof installPlugins>) =>
  installed.map(({ name, outcome }) => `${name} ${outcome}`);

test('a node gets fairlead and loopback, executable for all, and nothing the second time', (t) => {
  const at = places(t);
  t.deepEqual(outcomes(installPlugins({ ...at, replace: false })), [
    'fairlead installed',
    'loopback installed',
  ]);
  t.deepEqual(readdirSync(at.directory), ['fairlead', 'loopback']);
  t.is(statSync(join(at.directory, 'fairlead')).mode & 0o777, 0o755);
  t.deepEqual(outcomes(installPlugins({ ...at, replace: false })), [
    'fairlead unchanged',
    'loopback unchanged',
  ]);
});

test('an older plugin of ours is updated without a question', (t) => {
  const at = places(t);
  writeFileSync(foreign(at, 'loopback'), `${ELF} one ${MARK}`);
  t.deepEqual(outcomes(installPlugins({ ...at, replace: false })), [
    'fairlead installed',
    'loopback updated',
  ]);
  t.deepEqual(readFileSync(join(at.directory, 'loopback')), readFileSync(at.shimPath));
});

test("another project's loopback does its work: it is left", (t) => {
  const at = places(t);
  const path = foreign(at, 'loopback');
  t.deepEqual(outcomes(installPlugins({ ...at, replace: false })), ['fairlead installed', 'loopback left']);
  t.is(readFileSync(path, 'utf8'), `${ELF} another`);
});

test("another project's plugin of a name that is asked for is an error, and nothing is installed", (t) => {
  const at = places(t);
  foreign(at, 'bridge');
  const error = t.throws(() => installPlugins({ ...at, names: ['fairlead', 'bridge'], replace: false }));
  t.regex(error.message, /bridge: belongs to another plugin; --replace-plugins would replace it/);
  t.deepEqual(readdirSync(at.directory), ['bridge']);
});

test('plugins that are replaced are kept, and come back when ours are removed', (t) => {
  const at = places(t);
  const path = foreign(at, 'bridge');
  symlinkSync('elsewhere', join(at.directory, 'portmap'));
  const installed = installPlugins({ ...at, replace: true });
  t.deepEqual(
    installed.map(({ name }) => name),
    [...pluginNames],
  );
  t.deepEqual(
    installed.filter(({ outcome }) => outcome === 'replaced').map(({ name }) => name),
    ['bridge', 'portmap'],
  );
  t.true(isOurPlugin(path));
  t.deepEqual(ownPlugins(at.directory), [...pluginNames]);
  for (const name of ownPlugins(at.directory)) removePlugin(at.directory, name);
  t.deepEqual(readdirSync(at.directory), ['bridge', 'portmap']);
  t.is(readFileSync(path, 'utf8'), `${ELF} another`);
  t.is(readlinkSync(join(at.directory, 'portmap')), 'elsewhere');
});

test('what only speaks of us is not our plugin', (t) => {
  const at = places(t);
  foreign(at, 'bridge');
  writeFileSync(join(at.directory, 'ptp'), `#!/bin/sh\n# ${MARK}\n`);
  writeFileSync(join(at.directory, 'tuning'), `${ELF}${MARK}${'x'.repeat(1 << 20)}`);
  mkdirSync(join(at.directory, 'firewall'));
  symlinkSync('nowhere', join(at.directory, 'flannel'));
  t.deepEqual(ownPlugins(at.directory), []);
});

test('a name that cannot be written leaves no half file and no temporary one', (t) => {
  const at = places(t);
  mkdirSync(join(at.directory, 'bridge', 'full'), { recursive: true });
  t.throws(() => installPlugins({ ...at, names: ['bridge'], replace: true }));
  t.deepEqual(readdirSync(at.directory), ['bridge']);
});

test('the conflist appears whole, for root alone, and is not touched the second time', (t) => {
  const { directory } = places(t);
  t.true(installConflist(directory));
  t.deepEqual(readdirSync(directory), [conflistName]);
  const path = join(directory, conflistName);
  const { ino, mode } = statSync(path);
  t.is(mode & 0o777, 0o600);
  t.false(installConflist(directory));
  t.is(statSync(path).ino, ino);
  writeFileSync(path, '{"half');
  t.true(installConflist(directory));
  t.is(readFileSync(path, 'utf8'), renderConflist());
});

test('the conflist is a network that the plugin takes, in each version that it offers', (t) => {
  const { name, cniVersion, cniVersions, plugins } = JSON.parse(renderConflist());
  t.deepEqual([cniVersion, ...cniVersions], ['1.0.0', '1.0.0', '1.1.0']);
  t.deepEqual(
    plugins.map(({ type }: { type: string }) => type),
    ['fairlead'],
  );
  const env = { CNI_COMMAND: 'DEL', CNI_CONTAINERID: 'a', CNI_IFNAME: 'eth0', CNI_PATH: '/' };
  for (const version of cniVersions) {
    const config = Buffer.from(JSON.stringify({ name, cniVersion: version, ...plugins[0] }));
    const request = parseRequest(new Map(Object.entries(env)), config);
    t.like(request, { verb: 'DEL', network: 'fairlead', cniVersion: version });
  }
});

test('configurations that runtimes would take before ours are named', (t) => {
  const { directory } = places(t);
  installConflist(directory);
  for (const name of ['00-other.conf', '01-x.conflist', '02.json', '03-readme.txt', '10-flannel.conflist']) {
    writeFileSync(join(directory, name), '{}');
  }
  t.deepEqual(earlierConfigs(directory), ['00-other.conf', '01-x.conflist', '02.json']);
});

test('only our own conflist is ours', (t) => {
  const { directory } = places(t);
  t.is(ownConflist(directory), undefined);
  installConflist(directory);
  const path = join(directory, conflistName);
  t.is(ownConflist(directory), path);
  copyFileSync(path, join(directory, '06-mine.conflist'));
  writeFileSync(path, '{"name":"mine","plugins":[{"type":"ptp"}]}');
  t.is(ownConflist(directory), undefined);
});
