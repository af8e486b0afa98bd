import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { type ControlPlaneOptions, startControlPlane } from '../../controlplane/main.ts';
import { type Cidr, parseCidr } from '../../core/address.ts';
import { KubeClient } from '../../kube/client.ts';
import { NAMESPACES } from '../../kube/types.ts';

export const silent = pino({ level: 'silent' });

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: whatever the server says is looked at as it is
  readonly body: any;
}

/** A control plane on loopback with its state in a temporary folder. */
export interface TestServer extends AsyncDisposable {
  readonly url: string;
  readonly token: string;
  readonly stateDir: string;
  readonly kubeconfigPath: string;
  readonly client: KubeClient;
  /** One request as it is, with the token. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  /** A namespace of the test's own. */
  namespace(): Promise<string>;
}

export async function startTestServer(options: Partial<ControlPlaneOptions> = {}): Promise<TestServer> {
  const stateDir = mkdtempSync(join(tmpdir(), 'fairlead-controlplane-'));
  const controlPlane = await startControlPlane({
    stateDir,
    listeners: [{ host: '127.0.0.1', port: 0 }],
    clusterCidrs: cidrs('10.244.0.0/16', 'fd00:10:244::/56'),
    serviceCidrs: cidrs('10.96.0.0/16', 'fd00:10:96::/112'),
    log: silent,
    ...options,
  });
  const [url = ''] = controlPlane.urls;
  const { token, kubeconfigPath } = controlPlane;
  const client = new KubeClient({ server: url, token });
  let namespaces = 0;
  return {
    url,
    token,
    stateDir,
    kubeconfigPath,
    client,
    call: (method, path, body, headers) =>
      call(url + path, method, body, { authorization: `Bearer ${token}`, ...headers }),
    async namespace() {
      const name = `test-${namespaces++}`;
      await client.create(NAMESPACES, { metadata: { name } });
      return name;
    },
    async [Symbol.asyncDispose]() {
      client[Symbol.dispose]();
      await controlPlane[Symbol.asyncDispose]();
      rmSync(stateDir, { recursive: true });
    },
  };
}

export function cidrs(...texts: string[]): Cidr[] {
  return texts.map((text) => {
    const cidr = parseCidr(text);
    if (cidr === undefined) throw new TypeError(text);
    return cidr;
  });
}

async function call(
  url: string,
  method: string,
  body: unknown,
  headers: Record<string, string>,
): Promise<Answer> {
  const isText = typeof body === 'string';
  const response = await fetch(url, {
    method,
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: isText ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.startsWith('application/json') === true;
  return { status: response.status, headers: response.headers, body: isJson ? JSON.parse(text) : text };
}

/** Waits until the condition holds, a limited time. */
export async function until(condition: () => boolean | Promise<boolean>, what = 'condition'): Promise<void> {
  const endMs = performance.now() + 60_000;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`${what}: not within a minute`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export const configured = (name: string, namespace: string, labels?: Record<string, string>) => ({
  metadata: { name, namespace, ...(labels === undefined ? {} : { labels }) },
});

export function service(name: string, namespace: string, spec: object = {}, labels?: Record<string, string>) {
  return { ...configured(name, namespace, labels), spec: { ports: [{ port: 80 }], ...spec } };
}

export function pod(name: string, namespace: string, spec: object = {}, labels?: Record<string, string>) {
  return {
    ...configured(name, namespace, labels),
    spec: { containers: [{ name: 'c', image: 'i' }], ...spec },
  };
}
