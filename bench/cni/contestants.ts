import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';
import type { CniNode } from '../../test/cni/node.ts';
import type { Job } from './runner.ts';

export const referenceDirectory = '/usr/lib/cni';
const shim = fileURLToPath(new URL('../../.cache/native/fairlead-cni', import.meta.url));

/** What the pods' network does beside giving each of them an address. */
export interface Features {
  readonly ipMasq: boolean;
  /** One published TCP port for each pod. */
  readonly hostPort: boolean;
}

/** One side of the comparison: how it is called for one pod after the other. */
export interface Contestant {
  readonly name: 'fairlead' | 'reference';
  /** `index` tells the pods of a round apart; `path` is that of the pod's namespace. */
  job(verb: string, index: number, path: string): Job;
}

/** Whether Debian's containernetworking-plugins are installed. */
export function hasReference(): boolean {
  return existsSync(join(referenceDirectory, 'bridge'));
}

/** The one plugin, against the daemon of the node. */
export function fairlead({ ipMasq, hostPort }: Features, node: CniNode, directory: string): Contestant {
  const { namespace, socketPath } = node;
  const config = {
    cniVersion: '1.1.0',
    name: 'fairlead',
    type: 'fairlead',
    bridge: 'cni0',
    isGateway: true,
    ipMasq,
    ipam: hostLocal('10.78.0.0/16'),
  };
  const input = inputs(directory, 'fairlead', (index) => ({ ...config, ...published(hostPort, index) }));
  return {
    name: 'fairlead',
    job(verb, index, path) {
      const env = { ...environment(verb, path), FAIRLEAD_SOCKET: socketPath };
      return { namespace, chain: [{ input: input(index), program: shim }], env };
    },
  };
}

/** bridge with host-local, and portmap after it. */
export function reference({ ipMasq, hostPort }: Features, namespace: string, directory: string): Contestant {
  const bridge = {
    cniVersion: '1.0.0',
    name: 'reference',
    type: 'bridge',
    bridge: 'cni0',
    isGateway: true,
    ipMasq,
    // On the same kind of file system as our journal.
    ipam: { ...hostLocal('10.77.0.0/16'), dataDir: join(directory, 'networks') },
  };
  const portmap = { cniVersion: '1.0.0', name: 'reference', type: 'portmap' };
  const first = inputs(directory, 'bridge', () => bridge);
  const second = inputs(directory, 'portmap', (index) => ({ ...portmap, ...published(true, index) }));
  const link = (program: string, input: string) => ({ input, program: join(referenceDirectory, program) });
  return {
    name: 'reference',
    job(verb, index, path) {
      const chain = [link('bridge', first(index))];
      if (hostPort) chain.push(link('portmap', second(index)));
      // A runtime undoes in the reverse order.
      return {
        namespace,
        chain: verb === 'DEL' ? chain.toReversed() : chain,
        env: environment(verb, path),
      };
    },
  };
}

function environment(verb: string, path: string): Readonly<Record<string, string>> {
  const containerId = path.slice(path.lastIndexOf('/') + 1);
  return {
    CNI_COMMAND: verb,
    CNI_CONTAINERID: containerId,
    CNI_NETNS: path,
    CNI_IFNAME: 'eth0',
    CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=${containerId}`,
    CNI_PATH: referenceDirectory,
    PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
  };
}

function hostLocal(subnet: string) {
  return { type: 'host-local', ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] };
}

const hostPortFirst = 20_000;

function published(hostPort: boolean, index: number): object {
  if (!hostPort) return {};
  const mapping = { hostPort: hostPortFirst + index, containerPort: 80, protocol: 'tcp' };
  return { runtimeConfig: { portMappings: [mapping] } };
}

/** A file for each text that there is. */
function inputs(
  directory: string,
  name: string,
  configOf: (index: number) => object,
): (index: number) => string {
  const paths = new Map<string, string>();
  return (index) => {
    const text = JSON.stringify(configOf(index));
    const path = paths.get(text) ?? join(directory, `${name}-${paths.size}.json`);
    if (!paths.has(text)) writeFileSync(path, text);
    paths.set(text, path);
    return path;
  };
}

/** A namespace for the reference plugins to make their bridge in. */
export function referenceNode(): Disposable & { readonly namespace: string } {
  const [namespace] = podNamespaces(1).paths;
  if (namespace === undefined) throw new Error('no namespace');
  // iptables makes its tables at the first use; that is no pod's cost.
  execFileSync('nsenter', [`--net=${namespace}`, '/usr/sbin/iptables', '-t', 'nat', '-S']);
  return { namespace, [Symbol.dispose]: () => deleteNamespace(namespace) };
}

export function podNamespaces(count: number): Disposable & { readonly paths: readonly string[] } {
  const paths = Array.from({ length: count }, () => `/run/netns/bench-${randomBytes(6).toString('hex')}`);
  for (const path of paths) createNamespace(path);
  return { paths, [Symbol.dispose]: () => paths.forEach(deleteNamespace) };
}
