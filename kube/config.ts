/** How to reach an API server and who we are there. */
export interface KubeConfig {
  /** `https://10.0.0.1:6443`, with a path where the API is behind one. */
  readonly server: string;
  readonly token?: string;
  /** The whole Authorization header, asked for before each request; wins over `token`. */
  readonly authorization?: () => Promise<string | undefined>;
  /** PEM. */
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** The name in the server's certificate, where it is not the host of `server`. */
  readonly serverName?: string;
  readonly insecureSkipTlsVerify?: boolean;
}

/**
 * Reads a kubeconfig file, or with no path the pod's own service account, with the official client: every
 * kind of credential it knows works (client certificates, tokens, token files, exec plug-ins, basic).
 * The official client is loaded only here, because it takes long.
 */
export async function loadKubeConfig(path: string | undefined, context?: string): Promise<KubeConfig> {
  const { KubeConfig: Loader } = await import('@kubernetes/client-node');
  const loader = new Loader();
  if (path === undefined) loader.loadFromCluster();
  else loader.loadFromFile(path);
  if (context !== undefined) loader.setCurrentContext(context);
  const cluster = loader.getCurrentCluster();
  if (cluster === null)
    throw new Error(`kubeconfig ${path ?? '(in cluster)'}: no cluster in the current context`);
  // The official client refuses plain HTTP unless it is told not to verify what is not there.
  if (cluster.server.startsWith('http:')) {
    loader.clusters = loader.clusters.map((one) => ({ ...one, skipTLSVerify: true }));
  }
  const tls: TlsOptions = {};
  await loader.applyToHTTPSOptions(tls);
  return {
    server: cluster.server,
    authorization: async () => {
      const options: TlsOptions = {};
      await loader.applyToHTTPSOptions(options);
      return options.auth === undefined
        ? options.headers?.Authorization
        : `Basic ${Buffer.from(options.auth).toString('base64')}`;
    },
    ca: tls.ca,
    cert: tls.cert,
    key: tls.key,
    serverName: tls.servername,
    insecureSkipTlsVerify: tls.rejectUnauthorized === false,
  };
}

interface TlsOptions {
  ca?: string | Buffer;
  cert?: string | Buffer;
  key?: string | Buffer;
  servername?: string;
  rejectUnauthorized?: boolean;
  auth?: string;
  headers?: Record<string, string>;
}
