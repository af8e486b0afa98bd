import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { removeAllModes } from '../../proxy/cleanup.ts';
import { type IpvsBackend, type IpvsOptions, openIpvs } from '../../proxy/ipvs/backend.ts';
import { labName } from './lab.ts';
import { factOf } from './missing.ts';
import { missingIpvs } from './missing-ipvs.ts';
import { BackendLab, policy, type TestService, viewsOf } from './proxy-backend-lab.ts';
import { PORT } from './proxy-lab.ts';

/** Runs a program in a named namespace; its output. */
export function runInside(namespace: string, ...command: readonly string[]): string {
  const all = [`--net=/run/netns/${namespace}`, ...command];
  return execFileSync('/usr/bin/nsenter', all, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/**
 * The kernel's virtual servers of IPv4 and IPv6 as ipvsadm writes them ("TCP 10.96.0.1:80 rr persistent 60"), and the
 * destinations of each ("10.244.1.11:8080 1", with its weight).
 */
export function virtualServers(namespace: string): Map<string, string[]> {
  const servers = new Map<string, string[]>();
  let destinations: string[] = [];
  for (const line of runInside(namespace, '/usr/sbin/ipvsadm', '-L', '-n').trimEnd().split('\n').slice(3)) {
    const [first = '', second = '', ...rest] = line.trim().split(/\s+/);
    if (first === '->') destinations.push(`${second} ${rest[1]}`);
    else {
      destinations = [];
      servers.set([first, second, ...rest].join(' '), destinations);
    }
  }
  for (const its of servers.values()) its.sort();
  return servers;
}

/** How many open connections IPVS counts for each destination of IPv4 of the servers at this address. */
export function activeConnections(namespace: string, at: string): Map<string, number> {
  const lines = runInside(namespace, '/usr/sbin/ipvsadm', '-L', '-n', '-t', at).split('\n');
  const rows = lines.map((line) => line.trim().split(/\s+/)).filter(([first]) => first === '->');
  return new Map(rows.slice(1).map(([, to = '', , , active]) => [to, Number(active)]));
}

/** A namespace with backends, for one test file. */
export interface IpvsStage {
  readonly lab: BackendLab;
  /** One after the other; all that was written is taken away behind each. */
  readonly fact: ReturnType<typeof factOf>;
  open(t: ExecutionContext, options?: Partial<IpvsOptions>): Promise<IpvsBackend>;
  inside(...command: readonly string[]): string;
  servers(): Map<string, string[]>;
  /** Waits until something is so. */
  until(condition: () => boolean | Promise<boolean>): Promise<void>;
}

/** Call it once in a test file. */
export async function openIpvsStage(): Promise<IpvsStage> {
  let lab: BackendLab;
  const missing = await missingIpvs();
  test.before(async () => {
    if (missing === undefined) lab = await BackendLab.open(labName());
  });
  test.after.always(async () => await lab?.[Symbol.asyncDispose]());
  const inside = (...command: readonly string[]) => runInside(lab.lab.node.namespace, ...command);
  const servers = () => virtualServers(lab.lab.node.namespace);
  return {
    get lab() {
      return lab;
    },
    inside,
    servers,
    fact: (title, run) => {
      factOf(missing)(title, async (t) => {
        t.teardown(() => removeAllModes({ namespaceFd: lab.namespace.fd }));
        await run(t);
      });
    },
    open: async (t, options = {}) => {
      const backend = openIpvs({ namespaceFd: lab.namespace.fd, policy, lookIntervalMs: 200, ...options });
      t.teardown(() => backend[Symbol.dispose]());
      await backend.updateNode(lab.facts());
      return backend;
    },
    until: async (condition) => {
      for (const endMs = performance.now() + PATIENCE_MS; !(await condition()); await sleep(100))
        if (performance.now() > endMs) throw new Error(`it did not come to pass: ${[...servers().keys()]}`);
    },
  };
}

const PATIENCE_MS = 60_000;

/** The service with the port of its endpoints that echoes. */
export function echoOf(service: TestService) {
  const ports = viewsOf([service]).get(`default/s${service.number}`) ?? [];
  const echoing = ports.map((port) => ({
    ...port,
    clusterEndpoints: port.clusterEndpoints.map((endpoint) => ({ ...endpoint, port: PORT + 1 })),
    localEndpoints: port.localEndpoints.map((endpoint) => ({ ...endpoint, port: PORT + 1 })),
  }));
  return new Map([[`default/s${service.number}`, echoing]]);
}

/** Some more bytes go and come back over a connection that somebody holds. */
export async function goesOn(t: ExecutionContext, client: Workload): Promise<void> {
  await client.report();
  let back = 0;
  for (const endMs = performance.now() + PATIENCE_MS; back < 5 && performance.now() < endMs; ) {
    await sleep(100);
    const { failures, byServer } = await client.report();
    t.deepEqual(failures, []);
    back += byServer.held ?? 0;
  }
  t.true(back >= 5, 'bytes come back');
}
