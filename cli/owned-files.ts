import { lstatSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ownConflist, ownPlugins, removePlugin, unfinishedFiles } from '../cni/install.ts';
import { stateFile } from '../daemon/node-files.ts';
import { readSubnetFileRecord } from '../daemon/state-file.ts';
import { ownNetworkd } from './networkd.ts';
import { daemonPlaces } from './node-places.ts';

/** A file or directory of ours. */
export interface OwnedFile {
  readonly path: string;
  remove(): void;
}

export interface FilePlaces {
  readonly runDir: string;
  readonly cniBinDir: string;
  readonly cniConfDir: string;
  readonly subnetFile?: string | undefined;
  readonly systemdDir: string;
}

/** The agent's own, in its runtime directory; whatever else lies there stays. */
const agentFiles =
  /^((cni|node|proxy)\.sock|(lease|settings)\.json(\.\d+\.new)?|proxy\.json(\.new)?|cni-queue)$/;
/** In the directory of what outlives a reboot. An operator's own file, named by WIREGUARD_KEY_FILE, is not ours. */
const keptFiles = /^(wireguard\.key(\.\d+)?|lease\.json(\.\d+\.new)?)$/;
/** Without this file a directory `cni` is somebody else's. */
const journal = 'leases.journal';

/** Before anything else goes: without its configuration a runtime does not call a plugin that is going away. */
export function ownedConfiguration({ cniConfDir }: FilePlaces): OwnedFile[] {
  const path = ownConflist(cniConfDir);
  return [...(path === undefined ? [] : [whole(path)]), ...unfinished(cniConfDir)];
}

/** After all else. */
export function ownedFiles({ runDir, cniBinDir, ...places }: FilePlaces): OwnedFile[] {
  const plugins = ownPlugins(cniBinDir).map((name) => ({
    path: join(cniBinDir, name),
    remove: () => removePlugin(cniBinDir, name),
  }));
  const state = namesIn(runDir)
    .filter(
      (name) => agentFiles.test(name) || (name === 'cni' && namesIn(join(runDir, name)).includes(journal)),
    )
    .map((name) => whole(join(runDir, name)));
  const { keptDir, stateDir } = daemonPlaces(runDir);
  const kept = namesIn(keptDir)
    .filter((name) => keptFiles.test(name))
    .map((name) => whole(join(keptDir, name)));
  const subnetFile = places.subnetFile ?? readSubnetFileRecord(join(stateDir, stateFile));
  const isSubnetFile = subnetFile !== undefined && lstatSync(subnetFile, { throwIfNoEntry: false })?.isFile();
  return [
    ...plugins,
    ...unfinished(cniBinDir),
    ...ownNetworkd(places.systemdDir).map(whole),
    ...(isSubnetFile ? [whole(subnetFile)] : []),
    ...state,
    ...kept,
  ];
}

/** If nothing else is in it. */
export function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    if (!['ENOENT', 'ENOTEMPTY', 'EBUSY'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

function unfinished(directory: string): OwnedFile[] {
  return unfinishedFiles(directory).map((name) => whole(join(directory, name)));
}

function whole(path: string): OwnedFile {
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).toSorted();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
    throw error;
  }
}
