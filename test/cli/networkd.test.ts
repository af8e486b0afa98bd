import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import test from 'ava';
import { installNetworkd, ownNetworkd } from '../../cli/networkd.ts';
import { ownedFiles } from '../../cli/owned-files.ts';

test('systemd is told to leave our interfaces and routes alone; somebody else’s files stay', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-systemd-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const foreign = join(directory, 'network', '05-fairlead.link');
  mkdirSync(join(directory, 'network'));
  writeFileSync(foreign, '[Match]\n');
  const outcomes = () =>
    installNetworkd(directory).map(({ path, outcome }) => `${relative(directory, path)} ${outcome}`);
  const conf = 'networkd.conf.d/05-fairlead.conf';
  const network = 'network/05-fairlead.network';
  const link = 'network/05-fairlead.link';
  t.deepEqual(outcomes(), [`${conf} installed`, `${network} installed`, `${link} left`]);
  t.deepEqual(outcomes(), [`${conf} unchanged`, `${network} unchanged`, `${link} left`]);
  const read = (name: string) => readFileSync(join(directory, name), 'utf8');
  t.regex(read(conf), /^# .*\n\[Network\]\nManageForeignRoutes=no\n/);
  t.regex(
    read(network),
    /\nName=fl\.\* fl6\.\* fl-\* (fl(\[0-9a-f\]){13}) cni0\n\n\[Link\]\nUnmanaged=yes\n$/,
  );
  t.is(read(link), '[Match]\n');
  rmSync(foreign);
  t.is(outcomes()[2], `${link} installed`);
  t.regex(read(link), /MACAddressPolicy=none\n$/);

  const none = join(directory, 'none');
  const places = { runDir: none, cniBinDir: none, cniConfDir: none, systemdDir: directory };
  const owned = ownedFiles(places);
  t.deepEqual(
    owned.map(({ path }) => relative(directory, path)),
    [conf, network, link],
  );
  for (const file of owned) file.remove();
  t.deepEqual(ownNetworkd(directory), []);
});
