import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';

/** Debian's package busybox-static. */
const BUSYBOX = '/bin/busybox';
const APPLETS = ['sh', 'httpd', 'wget', 'sleep', 'ip'];

export const WEB_PORT = 8080;
/** A web server that answers every path / with {@link WEB_ANSWER}. */
export const WEB_SERVER = ['/bin/httpd', '-f', '-p', String(WEB_PORT), '-h', '/www'];
export const WEB_ANSWER = { name: 'web' };

/** A root filesystem for containers: busybox and one page. */
export function makeRootFilesystem(directory: string): void {
  for (const folder of ['bin', 'dev', 'etc', 'proc', 'run', 'sys', 'tmp', 'www']) {
    mkdirSync(`${directory}/${folder}`, { recursive: true });
  }
  copyFileSync(BUSYBOX, `${directory}/bin/busybox`);
  for (const applet of APPLETS) symlinkSync('busybox', `${directory}/bin/${applet}`);
  writeFileSync(`${directory}/www/index.html`, JSON.stringify(WEB_ANSWER));
}

/** Packs a root filesystem as an image of one layer, in the format of `docker save`. */
export function packImage(options: {
  rootfs: string;
  name: string;
  entrypoint: readonly string[];
  archive: string;
}): void {
  const { rootfs, name, entrypoint, archive } = options;
  const work = `${archive}.parts`;
  mkdirSync(work);
  execFileSync('tar', ['-C', rootfs, '-cf', `${work}/layer.tar`, '.']);
  const digest = createHash('sha256')
    .update(readFileSync(`${work}/layer.tar`))
    .digest('hex');
  const config = {
    os: 'linux',
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    config: { Entrypoint: entrypoint, Env: ['PATH=/bin'] },
    rootfs: { type: 'layers', diff_ids: [`sha256:${digest}`] },
  };
  const manifest = [{ Config: 'config.json', RepoTags: [name], Layers: ['layer.tar'] }];
  writeFileSync(`${work}/config.json`, JSON.stringify(config));
  writeFileSync(`${work}/manifest.json`, JSON.stringify(manifest));
  execFileSync('tar', ['-C', work, '-cf', archive, 'manifest.json', 'config.json', 'layer.tar']);
  rmSync(work, { recursive: true });
}
