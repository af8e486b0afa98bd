/**
 * The main job on real input: a control plane and three nodes, pods that reach each other and a Service, over VXLAN
 * and over host-gw, while endpoints come and go and a node's agent is killed. Everything is torn down at the end.
 */

import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { familyOf, type Ip } from '../../core/address.ts';
import { KubeClient } from '../../kube/client.ts';
import { PODS, SERVICES, type V1Service } from '../../kube/types.ts';
import type { Backend } from '../cluster/backends.ts';
import { type AttachedPod, Cluster } from '../cluster/cluster.ts';
import { directoryOf } from '../cluster/lab.ts';
import { OUTSIDE_ADDRESSES } from '../cluster/topology.ts';
import type { Workload } from '../cluster/workload-client.ts';
import { untilStopped } from '../signals.ts';
import { Report } from './checks.ts';
import { HTTP_PORT, podObject, readyStatus, serviceObject } from './objects.ts';

const NODE_PORT = 30080;
const SELF_NODE_PORT = 30081;
/** Shorter than the wait before a lost first packet is sent again, so that none may be lost. */
/** What is lost is asked for anew. */
const ASK_TIMEOUT_MS = 2_000;
const HAIRPIN_TIMEOUT_MS = 700;
const CONVERGE_MS = 3000;
const FULL_SIZE_BYTES = 1_000_000;

const print = (text: string) => void process.stdout.write(text);
const url = (host: string, port: number) => `http://${host.includes(':') ? `[${host}]` : host}:${port}/`;
const ofFamily = <T extends Ip>(ips: readonly T[], family: 4 | 6) => {
  const ip = ips.find((candidate) => familyOf(candidate) === family);
  if (ip === undefined) throw new Error(`no IPv${family} address among ${ips.join(', ')}`);
  return ip;
};

/** A pod with the application that runs in it. */
interface Application extends AttachedPod {
  readonly app: Workload;
}

class Demo {
  readonly cluster: Cluster;
  readonly report: Report;
  readonly client: KubeClient;
  readonly outside: Workload;
  readonly pods: Application[] = [];

  constructor(cluster: Cluster, report: Report) {
    this.cluster = cluster;
    this.report = report;
    this.client = new KubeClient({
      server: serverOf(readFileSync(cluster.paths.kubeconfig, 'utf8')),
      token: readFileSync(cluster.paths.token, 'utf8').trim(),
    });
    this.outside = cluster.lab.workload(cluster.lab.outside.namespace, 'outside');
  }

  async startPod(nodeIndex: number, name: string, app?: string): Promise<Application> {
    const node = this.cluster.lab.nodes[nodeIndex];
    if (node === undefined) throw new Error(`no node ${nodeIndex}`);
    const pod = await this.cluster.attach(node, name);
    const application = { ...pod, app: this.cluster.lab.workload(pod.namespace, name) };
    await application.app.serve(name, HTTP_PORT);
    if (app !== undefined) {
      await this.client.create(PODS, podObject(pod, app));
      await this.client.patch(PODS, name, readyStatus(pod), { namespace: 'default', subresource: 'status' });
    }
    this.pods.push(application);
    this.report.add({
      what: `CNI ADD ${name} on ${node.name}`,
      ok: true,
      answer: pod.ips.join(' '),
      ms: pod.addMs,
    });
    return application;
  }

  async podToPod(from: Application, to: Application, what: string): Promise<void> {
    for (const family of [4, 6] as const) {
      const ip = ofFamily(to.ips, family);
      const expected = {
        servers: [to.name],
        seenFrom: [ofFamily(from.ips, family)],
        patienceMs: CONVERGE_MS,
      };
      await this.report.expect(
        `${what}, IPv${family}, TCP`,
        () => from.app.get(url(ip, HTTP_PORT), ASK_TIMEOUT_MS),
        expected,
      );
      await this.report.expect(
        `${what}, IPv${family}, UDP`,
        () => from.app.datagram(ip, HTTP_PORT, ASK_TIMEOUT_MS),
        expected,
      );
      await this.report.expect(`${what}, IPv${family}, 1 MB there and back`, () =>
        from.app.send(ip, HTTP_PORT + 1, FULL_SIZE_BYTES),
      );
    }
  }

  async podsReachEachOther(backend: Backend): Promise<void> {
    const [web1, web2, same, far] = this.pods as [Application, Application, Application, Application];
    this.report.section(`Pod to pod, backend ${backend}`);
    await this.podToPod(same, web1, 'same node');
    await this.podToPod(web1, web2, 'node-1 → node-2');
    await this.podToPod(far, web1, 'node-3 → node-1');
  }

  async serviceAnswers(service: V1Service): Promise<void> {
    const [web1, web2, same, far] = this.pods as [Application, Application, Application, Application];
    const servers = [web1.name, web2.name];
    this.report.section('Service: pods, nodes and the outside reach either of two servers');
    for (const ip of service.spec?.clusterIPs ?? []) {
      const family = ip.includes(':') ? 6 : 4;
      for (const pod of [web1, web2, same, far]) {
        const expected = { servers, patienceMs: CONVERGE_MS };
        await this.report.expect(
          `${pod.name} → ClusterIP, IPv${family}`,
          () => pod.app.get(url(ip, 80), ASK_TIMEOUT_MS),
          expected,
        );
      }
      await this.report.expect(
        `${far.name} → ClusterIP, IPv${family}, UDP`,
        () => far.app.datagram(ip, 80, ASK_TIMEOUT_MS),
        {
          servers,
        },
      );
      for (const node of this.cluster.lab.nodes) {
        const address = node.addresses[family === 4 ? 0 : 1];
        const what = `outside → NodePort on ${node.name}, IPv${family}`;
        const expected = { servers, seenFrom: this.nodeSources(family), patienceMs: CONVERGE_MS };
        await this.report.expect(
          what,
          () => this.outside.get(url(address, NODE_PORT), ASK_TIMEOUT_MS),
          expected,
        );
      }
    }
  }

  /** What a server may see after masquerading on some node: a node's own address on either side. */
  nodeSources(family: 4 | 6): string[] {
    const index = family === 4 ? 0 : 1;
    const underlay = this.cluster.lab.nodes.map((node) => node.addresses[index]);
    return [...underlay, ...this.nodePodAddresses(family)];
  }

  nodePodAddresses(family: 4 | 6): string[] {
    return this.pods.flatMap((pod) => {
      const ip = ofFamily(pod.ips, family);
      if (family === 4) {
        const network = ip.split('.').slice(0, 3).join('.');
        return [`${network}.0`, `${network}.1`];
      }
      const network = ip.slice(0, ip.lastIndexOf('::'));
      return [`${network}::`, `${network}::1`];
    });
  }

  /** A pod that is a Service's only server calls the Service: its own packets come back to it. */
  async podReachesItself(pod: Application): Promise<void> {
    await this.client.patch(
      PODS,
      pod.name,
      { metadata: { labels: { self: 'yes' } } },
      { namespace: 'default' },
    );
    const self = await this.client.create<V1Service>(
      SERVICES,
      serviceObject('self', { self: 'yes' }, SELF_NODE_PORT),
    );
    for (const ip of self.spec?.clusterIPs ?? []) {
      const what = `${pod.name} → itself through a Service, IPv${ip.includes(':') ? 6 : 4}`;
      const expected = { servers: [pod.name], patienceMs: CONVERGE_MS };
      await this.report.expect(what, () => pod.app.get(url(ip, 80), HAIRPIN_TIMEOUT_MS), expected);
    }
  }

  async outsideSeesTheNode(): Promise<void> {
    this.report.section('Pod to outside: masqueraded as its node');
    await this.outside.serve('outside', HTTP_PORT);
    for (const pod of this.pods) {
      for (const [index, target] of OUTSIDE_ADDRESSES.entries()) {
        const seenFrom = [pod.node.addresses[index] ?? ''];
        const what = `${pod.name} → ${target}`;
        await this.report.expect(what, () => pod.app.get(url(target, HTTP_PORT), ASK_TIMEOUT_MS), {
          servers: ['outside'],
          seenFrom,
        });
      }
    }
  }

  async endpointsComeAndGo(service: V1Service): Promise<void> {
    this.report.section('An endpoint is added and removed while traffic flows');
    const client = this.cluster.lab.workload(this.pods[3]?.namespace ?? '', 'load');
    await client.load(url(service.spec?.clusterIP ?? '', 80), 5);
    await sleep(500);
    const web3 = await this.startPod(2, 'web-3', 'web');
    await sleep(1000);
    const added = await client.report();
    this.summary('requests while web-3 was added', added, added.byServer['web-3'] !== undefined);
    await this.client.delete(PODS, web3.name, { namespace: 'default', gracePeriodSeconds: 0 });
    await sleep(1000);
    await client.report();
    await sleep(500);
    const removed = await client.report();
    this.summary('requests after web-3 was removed', removed, removed.byServer['web-3'] === undefined);
    await client[Symbol.asyncDispose]();
  }

  summary(what: string, load: Awaited<ReturnType<Workload['report']>>, expected: boolean): void {
    const shares = Object.entries(load.byServer).map(([name, count]) => `${name} ${count}`);
    const failures = load.failures.length > 0 ? `, ${load.failures.length} failed: ${load.failures[0]}` : '';
    const ok = expected && load.failures.length === 0 && load.requests > 0;
    this.report.add({ what, ok, answer: shares.join(', ') + failures, ms: load.maxMs });
  }

  async agentIsKilled(service: V1Service, backend: Backend): Promise<void> {
    this.report.section("A node's agent is killed with -9 while traffic flows, and starts again");
    const [web1, , , far] = this.pods as [Application, Application, Application, Application];
    const node = far.node;
    const load = this.cluster.lab.workload(far.namespace, 'load');
    const held = this.cluster.lab.workload(far.namespace, 'held');
    await load.load(url(service.spec?.clusterIP ?? '', 80), 5);
    await held.hold(ofFamily(web1.ips, 4), HTTP_PORT + 1, 5);
    await this.cluster.stopNode(node, 'SIGKILL');
    await sleep(1000);
    this.summary(`new connections while ${node.name}'s agent is dead`, await load.report(), true);
    const start = performance.now();
    const status = await this.cluster.startNode(node, backend);
    const writes = kernelWrites(status);
    const answer = `${writes} writes to the kernel`;
    this.report.add({
      what: `${node.name}'s agent is ready again`,
      ok: writes === 0,
      answer,
      ms: performance.now() - start,
    });
    await sleep(500);
    this.summary('new connections after the restart', await load.report(), true);
    this.summary('one TCP connection held open all the time', await held.report(), true);
    await Promise.all([load[Symbol.asyncDispose](), held[Symbol.asyncDispose]()]);
  }

  async switchBackend(backend: Backend): Promise<void> {
    this.report.section(`All nodes change to backend ${backend}; the pods stay`);
    const start = performance.now();
    await Promise.all(this.cluster.lab.nodes.map((node) => this.cluster.stopNode(node, 'SIGTERM')));
    await Promise.all(this.cluster.lab.nodes.map((node) => this.cluster.startNode(node, backend)));
    const what = `${this.cluster.lab.nodes.length} agents restarted`;
    this.report.add({ what, ok: true, answer: 'ready', ms: performance.now() - start });
  }

  async removePods(): Promise<void> {
    this.report.section('Pods are removed');
    for (const pod of this.pods) {
      const start = performance.now();
      await this.cluster.detach(pod);
      this.report.add({
        what: `CNI DEL ${pod.name}`,
        ok: true,
        answer: 'gone',
        ms: performance.now() - start,
      });
    }
  }
}

/** Rows written since an agent started, by the daemon and by the proxy. */
function kernelWrites(status: { daemon?: object; proxy?: object }): number {
  const writes = (part: object | undefined) => Number((part as { writes?: number } | undefined)?.writes ?? 0);
  return writes(status.daemon) + writes(status.proxy);
}

/** The API server's loopback address out of the kubeconfig that it wrote. */
function serverOf(kubeconfig: string): string {
  const server = /server"?:\s*"?([^\s"]+)/.exec(kubeconfig)?.[1];
  if (server === undefined) throw new Error('the kubeconfig of the cluster names no server');
  return server;
}

async function play(demo: Demo): Promise<void> {
  demo.report.section('Pods start: CNI through the shim');
  await demo.startPod(0, 'web-1', 'web');
  await demo.startPod(1, 'web-2', 'web');
  await demo.startPod(0, 'client-1');
  await demo.startPod(2, 'client-3');
  const service = await demo.client.create<V1Service>(
    SERVICES,
    serviceObject('web', { app: 'web' }, NODE_PORT),
  );
  await demo.podsReachEachOther('vxlan');
  await demo.serviceAnswers(service);
  await demo.podReachesItself(demo.pods[0] as Application);
  await demo.outsideSeesTheNode();
  await demo.endpointsComeAndGo(service);
  await demo.agentIsKilled(service, 'vxlan');
  await demo.switchBackend('host-gw');
  await demo.podsReachEachOther('host-gw');
  await demo.serviceAnswers(service);
  await demo.removePods();
}

async function main(): Promise<void> {
  const start = performance.now();
  const interrupt = new AbortController();
  void untilStopped().then(() => interrupt.abort(new Error('interrupted')));
  const report = new Report(print);
  const name = `demo${process.pid}`;
  const interrupted = new Promise<never>((_, reject) => {
    interrupt.signal.addEventListener('abort', () => reject(interrupt.signal.reason));
  });
  interrupted.catch(() => undefined);
  try {
    print('Fairlead demo: a control plane, three nodes, pods and a Service on this machine\n\n');
    const progress = (text: string) => print(`  …     ${text}\n`);
    await using cluster = await Cluster.start({
      name,
      nodes: 3,
      backend: 'vxlan',
      progress,
      signal: interrupt.signal,
    });
    await Promise.race([play(new Demo(cluster, report)), interrupted]);
  } catch (error) {
    report.add({ what: 'the demo itself', ok: false, answer: (error as Error).message, ms: 0 });
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const passed = report.checks.length - report.failed;
  const remains = existsSync(directoryOf(name))
    ? `something is left; remove it with: fairlead cluster down --name ${name}`
    : 'everything has been removed';
  print(`\n${passed} of ${report.checks.length} checks passed in ${seconds} s; ${remains}\n`);
  process.exit(report.failed === 0 ? 0 : 1);
}

await main();
