import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/*
 * What systemd does to links and routes that are not its own, unless it is told not to. networkd removes routes and
 * rules that it does not know when it starts (ManageForeignRoutes=, networkd.conf(5)), and configures whatever link a
 * file of the operator's matches. udev gives a link made without an address one of its own (MACAddressPolicy=,
 * systemd.link(5)). The agent makes all of that good within a second; these files spare a node that second.
 */

export const SYSTEMD_DIR = '/etc/systemd';

/** The first line: by it a file is known to be ours. */
const mark = '# Written by `fairlead install --networkd`; `fairlead cleanup` removes it.';
/** Tunnels, and pods' interfaces on the node. */
const tunnels = 'fl.* fl6.* fl-*';
const pods = `fl${'[0-9a-f]'.repeat(13)}`;

const files: Readonly<Record<string, string>> = {
  'networkd.conf.d/05-fairlead.conf':
    '[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n',
  'network/05-fairlead.network': `[Match]\nName=${tunnels} ${pods} cni0\n\n[Link]\nUnmanaged=yes\n`,
  'network/05-fairlead.link': `[Match]\nOriginalName=${tunnels} ${pods}\n\n[Link]\nMACAddressPolicy=none\n`,
};

export interface NetworkdFile {
  readonly path: string;
  readonly outcome: 'installed' | 'unchanged' | 'left';
}

/** Writes systemd's files below a directory such as /etc/systemd. Somebody else's files of these names are left. */
export function installNetworkd(directory: string): NetworkdFile[] {
  return Object.entries(files).map(([name, text]) => {
    const path = join(directory, name);
    const wanted = `${mark}\n${text}`;
    const there = readIfThere(path);
    if (there === wanted) return { path, outcome: 'unchanged' };
    if (there !== undefined && !there.startsWith(mark)) return { path, outcome: 'left' };
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, wanted, { mode: 0o644 });
    return { path, outcome: 'installed' };
  });
}

/** Ours that are there. */
export function ownNetworkd(directory: string): string[] {
  const paths = Object.keys(files).map((name) => join(directory, name));
  return paths.filter((path) => readIfThere(path)?.startsWith(mark));
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}
