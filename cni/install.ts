import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../core/errors.ts';

/** Names under which the plugin can be called; each is the `type` that it then stands for. */
export const pluginNames = [
  'fairlead',
  'bridge',
  'ptp',
  'host-local',
  'portmap',
  'bandwidth',
  'firewall',
  'loopback',
  'tuning',
  'flannel',
] as const;
export type PluginName = (typeof pluginNames)[number];

/**
 * What a node needs: our conflist names `fairlead`, and containerd's own network names `loopback`. The other names
 * belong to whoever has a conflist with them, so they are taken only when asked for.
 */
export const pluginNamesDefault: readonly PluginName[] = ['fairlead', 'loopback'];

/** Early in the alphabet: runtimes take the first file of the directory. */
export const conflistName = '05-fairlead.conflist';

/** What a replaced plugin of others is kept as, for {@link removePlugins} to give back. */
const keptSuffix = '.before-fairlead';
/** In every build of the shim, and larger than any. */
const shimMark = 'Fairlead CNI plugin: passes each call to the fairlead node daemon';
const shimBytesMax = 64 << 10;

/**
 * - installed: there was none; updated: an older one of ours; unchanged: this very one;
 * - replaced: there was a plugin of others, which is kept beside it;
 * - left: there is a plugin of others, which stays.
 */
type PluginOutcome = 'installed' | 'updated' | 'unchanged' | 'replaced' | 'left';

export interface InstalledPlugin {
  readonly name: PluginName;
  readonly outcome: PluginOutcome;
}

export interface InstallPluginsOptions {
  /** The built shim. */
  readonly shimPath: string;
  /** Made if missing. */
  readonly directory: string;
  /** Undefined: {@link pluginNamesDefault}, or with `replace` all of {@link pluginNames}. */
  readonly names?: readonly PluginName[] | undefined;
  /** Plugins of others under these names are replaced. */
  readonly replace: boolean;
}

/**
 * Puts the shim under each name. Nothing changes before every file is written, and each name changes at once, so a
 * runtime never executes half a plugin. Throws {@link InputError} where a plugin of others has a name that was asked for.
 */
export function installPlugins(options: InstallPluginsOptions): InstalledPlugin[] {
  const { shimPath, directory, replace } = options;
  const shim = readFileSync(shimPath);
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  const names = options.names ?? (replace ? pluginNames : pluginNamesDefault);
  const plan = names.map((name) => ({ name, outcome: outcomeFor(join(directory, name), shim, replace) }));
  const refused = plan.filter(({ name, outcome }) => outcome === 'left' && !isOptional(name, options));
  if (refused.length > 0) {
    const message = 'belongs to another plugin; --replace-plugins would replace it';
    throw new InputError(
      directory,
      refused.map(({ name }) => ({ path: name, message })),
    );
  }
  const written = plan.filter(({ outcome }) => outcome !== 'left' && outcome !== 'unchanged');
  writeAll(
    written.map(({ name, outcome }) => ({
      path: join(directory, name),
      content: shim,
      mode: 0o755,
      isKept: outcome === 'replaced',
    })),
  );
  return plan;
}

/** A node whose runtime brings its own `loopback` has all it needs. */
function isOptional(name: PluginName, { names }: InstallPluginsOptions): boolean {
  return names === undefined && name === 'loopback';
}

function outcomeFor(path: string, shim: Buffer, replace: boolean): PluginOutcome {
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return 'installed';
  if (!isOurPlugin(path)) return replace ? 'replaced' : 'left';
  return readFileSync(path).equals(shim) && (statSync(path).mode & 0o777) === 0o755 ? 'unchanged' : 'updated';
}

/** By its content: any build of our shim, under whatever name. */
export function isOurPlugin(path: string): boolean {
  const status = statSync(path, { throwIfNoEntry: false });
  if (!status?.isFile() || status.size > shimBytesMax) return false;
  const content = readFileSync(path);
  return content.subarray(0, 4).toString('latin1') === '\x7fELF' && content.includes(shimMark);
}

/** Our plugins in the directory, and what they replaced. */
export function ownPlugins(directory: string): string[] {
  return pluginNames.filter((name) => isOurPlugin(join(directory, name)));
}

/** Names of files that an install which was killed did not get to rename. */
export function unfinishedFiles(directory: string): string[] {
  const names = [...pluginNames, conflistName].map((name) => name.replaceAll('.', '\\.'));
  const unfinished = new RegExp(`^(${names.join('|')})\\.\\d+\\.new$`);
  return namesIn(directory).filter((name) => unfinished.test(name));
}

/** Removes one of {@link ownPlugins}, and puts back what it replaced. */
export function removePlugin(directory: string, name: string): void {
  const path = join(directory, name);
  const kept = path + keptSuffix;
  if (lstatSync(kept, { throwIfNoEntry: false }) === undefined) rmSync(path);
  else renameSync(kept, path);
}

/**
 * The network of the node's pods, as runtimes read it. Those that know `cniVersions` (specification 1.1.0) take the
 * newest that they speak, and ask for STATUS and GC from 1.1.0 on; others do not see the key.
 */
export function renderConflist(): string {
  const conflist = {
    cniVersion: '1.0.0',
    cniVersions: ['1.0.0', '1.1.0'],
    name: 'fairlead',
    plugins: [{ type: 'fairlead', capabilities: { portMappings: true, bandwidth: true } }],
  };
  return `${JSON.stringify(conflist, null, 2)}\n`;
}

/**
 * Writes the conflist: with it a runtime believes that pods can be attached, so it is the last thing to appear and
 * stays when the daemon stops (without it DEL would fail). Runtimes see it whole, by rename. False: it was there.
 */
export function installConflist(directory: string): boolean {
  const path = join(directory, conflistName);
  const content = Buffer.from(renderConflist());
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  if (readIfThere(path)?.equals(content)) return false;
  writeAll([{ path, content, mode: 0o600, isKept: false }]);
  return true;
}

/** Our conflist in the directory, if it is there. */
export function ownConflist(directory: string): string | undefined {
  const path = join(directory, conflistName);
  return readIfThere(path)?.includes('"fairlead"') ? path : undefined;
}

/** Configurations of others that runtimes take before ours. */
export function earlierConfigs(directory: string): string[] {
  const isConfig = (name: string) => /\.(conf|conflist|json)$/.test(name);
  return readdirSync(directory).filter((name) => isConfig(name) && name < conflistName);
}

interface NewFile {
  readonly path: string;
  readonly content: Buffer;
  readonly mode: number;
  /** What is there is kept under another name. */
  readonly isKept: boolean;
}

/** All are on the disk before the first gets its name. What fails leaves no half file. */
function writeAll(files: readonly NewFile[]): void {
  const temporary = ({ path }: NewFile) => `${path}.${process.pid}.new`;
  try {
    for (const file of files) {
      writeFileSync(temporary(file), file.content, { mode: file.mode, flush: true });
      chmodSync(temporary(file), file.mode);
    }
    for (const file of files) {
      if (file.isKept) keep(file.path);
      renameSync(temporary(file), file.path);
    }
  } finally {
    for (const file of files) rmSync(temporary(file), { force: true });
  }
}

/** A second name, so that there is no moment without the first. */
function keep(path: string): void {
  rmSync(path + keptSuffix, { force: true });
  linkSync(path, path + keptSuffix);
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).toSorted();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
    throw error;
  }
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
