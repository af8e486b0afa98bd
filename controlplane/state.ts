import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const TOKEN_BYTES = 32;

/** The files of a control plane, all for their owner only. */
export interface State {
  readonly databasePath: string;
  readonly token: string;
  readonly kubeconfigPath: string;
}

/** Makes the folder and the token where they are not there yet. */
export function openState(stateDir: string): State {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  return {
    databasePath: join(stateDir, 'state.db'),
    token: readOrMakeToken(join(stateDir, 'token')),
    kubeconfigPath: join(stateDir, 'kubeconfig'),
  };
}

function readOrMakeToken(path: string): string {
  try {
    const token = readFileSync(path, 'utf8').trim();
    chmodSync(path, 0o600);
    if (token !== '') return token;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const token = randomBytes(TOKEN_BYTES).toString('base64url');
  replaceFile(path, `${token}\n`);
  return token;
}

/** A kubeconfig for the server's administrator. JSON is YAML. */
export function writeKubeconfig(path: string, server: string, token: string): void {
  const name = 'fairlead';
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    // There is no TLS to verify, and the official JavaScript client wants to be told so.
    clusters: [
      {
        name,
        cluster: { server, ...(server.startsWith('http:') ? { 'insecure-skip-tls-verify': true } : {}) },
      },
    ],
    users: [{ name, user: { token } }],
    contexts: [{ name, context: { cluster: name, user: name } }],
    'current-context': name,
  };
  replaceFile(path, `${JSON.stringify(config, undefined, 2)}\n`);
}

/** Nobody ever reads half a file. */
function replaceFile(path: string, text: string): void {
  const next = `${path}.next`;
  writeFileSync(next, text, { mode: 0o600, flush: true });
  chmodSync(next, 0o600);
  renameSync(next, path);
}
