import type { Logger } from 'pino';
import { type Cidr, type Family, families, familyOf, prefixLengthOf } from '../core/address.ts';
import { InputError, type Problem } from '../core/errors.ts';
import { ApiError } from '../kube/errors.ts';
import { type KubeApi, NAMESPACES } from '../kube/types.ts';
import { TokenAccess } from './apiserver/access.ts';
import { ApiServer, type Listener } from './apiserver/server.ts';
import { runEndpointSlices } from './controllers/endpointslice/controller.ts';
import { runNamespaces } from './controllers/namespaces.ts';
import { NODE_PREFIX_LENGTHS, runNodeIpam } from './controllers/node-ipam.ts';
import { kinds } from './kinds/table.ts';
import { LocalClient } from './registry/local-client.ts';
import { Registry } from './registry/registry.ts';
import { ServiceAdmission } from './service/admission.ts';
import { openState, writeKubeconfig } from './state.ts';
import { compactRegularly } from './storage/compactor.ts';
import { SqliteStorage } from './storage/sqlite.ts';

const NAMESPACES_AT_START = ['default', 'kube-system', 'kube-public', 'kube-node-lease'];
/** Shorter than the silence after which the official JavaScript client takes a connection for dead. */
const BOOKMARK_INTERVAL_MS = 20_000;

export interface ControlPlaneOptions {
  /** Database, token and kubeconfig; made where it is not there. */
  readonly stateDir: string;
  readonly listeners: readonly Listener[];
  /** The pods' networks, at most one per family. */
  readonly clusterCidrs: readonly Cidr[];
  /** The services' networks, at most one per family; the first one's family is the default. */
  readonly serviceCidrs: readonly Cidr[];
  readonly nodePrefixLengths?: Readonly<Record<Family, number>>;
  readonly bookmarkIntervalMs?: number;
  readonly log: Logger;
}

export interface ControlPlane extends AsyncDisposable {
  /** One per listener, in their order. */
  readonly urls: readonly string[];
  readonly token: string;
  /** For the first listener. */
  readonly kubeconfigPath: string;
}

/** An API server on SQLite with its controllers, running until disposed of. Throws InputError. */
export async function startControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  const problems = problemsOf(options);
  if (problems.length > 0) throw new InputError('control plane', problems);
  const { databasePath, token, kubeconfigPath } = openState(options.stateDir);
  await using opened = new AsyncDisposableStack();
  const storage = opened.use(SqliteStorage.open(databasePath));
  const admissions = new Map([['services', new ServiceAdmission(options.serviceCidrs)]]);
  const registry = await Registry.open({ storage, kinds, admissions });
  const api = new LocalClient(registry);
  await makeNamespaces(api);
  const server = opened.use(
    new ApiServer({
      registry,
      access: new TokenAccess(token),
      log: options.log,
      bookmarkIntervalMs: options.bookmarkIntervalMs ?? BOOKMARK_INTERVAL_MS,
    }),
  );
  const urls: string[] = [];
  for (const listener of options.listeners) urls.push(await server.listen(listener));
  writeKubeconfig(kubeconfigPath, urls[0] ?? '', token);
  opened.use(startBackground(options, storage, api));
  const running = opened.move();
  return { urls, token, kubeconfigPath, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

function problemsOf({
  listeners,
  clusterCidrs,
  serviceCidrs,
  nodePrefixLengths,
}: ControlPlaneOptions): Problem[] {
  const lengths = nodePrefixLengths ?? NODE_PREFIX_LENGTHS;
  const perFamily = (path: string, cidrs: readonly Cidr[]) =>
    families
      .filter((family) => cidrs.filter((cidr) => familyOf(cidr) === family).length > 1)
      .map((family) => ({ path, message: `${cidrs.join(',')}: more than one IPv${family} network` }));
  return [
    ...(listeners.length === 0 ? [{ path: 'listeners', message: 'at least one is needed' }] : []),
    ...(serviceCidrs.length === 0 ? [{ path: 'serviceCidrs', message: 'at least one is needed' }] : []),
    ...perFamily('clusterCidrs', clusterCidrs),
    ...perFamily('serviceCidrs', serviceCidrs),
    ...clusterCidrs
      .filter((cidr) => prefixLengthOf(cidr) > lengths[familyOf(cidr)])
      .map((cidr) => ({
        path: 'clusterCidrs',
        message: `${cidr}: smaller than one node's /${lengths[familyOf(cidr)]}`,
      })),
  ];
}

async function makeNamespaces(api: KubeApi): Promise<void> {
  for (const name of NAMESPACES_AT_START) {
    await api.create(NAMESPACES, { metadata: { name } }).catch((error) => {
      if (!(error instanceof ApiError) || error.reason !== 'AlreadyExists') throw error;
    });
  }
}

/** Controllers and compaction; ended, and waited for, by disposing. */
function startBackground(
  options: ControlPlaneOptions,
  storage: SqliteStorage,
  api: KubeApi,
): AsyncDisposable {
  const { log } = options;
  const closing = new AbortController();
  const { signal } = closing;
  const running = [
    compactRegularly(storage, { signal, onError: (error) => log.error({ err: error }, 'compaction failed') }),
    runNamespaces({ api, resources: kinds.filter(({ namespaced }) => namespaced), log, signal }),
    runEndpointSlices({ api, log, signal }),
    ...(options.clusterCidrs.length === 0 ? [] : [runNodeIpam({ ...options, api, signal })]),
  ];
  return {
    async [Symbol.asyncDispose]() {
      closing.abort();
      await Promise.all(running);
    },
  };
}
