import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { Ip } from '../../core/address.ts';
import { SERVICES } from '../../kube/types.ts';
import type { Backend } from '../../proxy/backend.ts';
import { defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import { labName } from './lab.ts';
import { factOf } from './missing.ts';
import { CLUSTER_CIDRS, frontendAddresses, outcomeText, ProxyLab, podAddresses, url } from './proxy-lab.ts';

/*
 * Real connections through the rules of a real kernel, from objects of the API on; see proxy-lab.ts for the pods and
 * machines.
 */

export const policy: ProxyPolicy = { ...defaultPolicy, detectLocal: { mode: 'cidrs', cidrs: CLUSTER_CIDRS } };

export interface PacketsOptions {
  /** Default: the proxy's own. */
  readonly open?: (lab: ProxyLab) => Backend;
  /** Why it cannot be tested here. */
  readonly missing?: string | undefined;
  /** What is deleted is remembered as long as connections are. */
  readonly drains?: boolean;
}

type Client = Parameters<ProxyLab['from']>[0];

/** Tests of one backend under the proxy, in a lab of its own. Call it once in a test file. */
export function packets({ open, missing, drains = false }: PacketsOptions = {}): void {
  let lab: ProxyLab;
  const start = () => lab.startProxy(open === undefined ? {} : { backend: open(lab), policy });

  test.before(async () => {
    if (missing !== undefined) return;
    lab = await ProxyLab.open(labName());
    await start();
  });

  test.after.always(async () => {
    await lab?.[Symbol.asyncDispose]();
  });

  const fact = factOf(missing);

  /** One TCP and one UDP exchange; both must come out alike. */
  async function exchange(t: ExecutionContext, client: Client, ip: Ip, port: number): Promise<string> {
    const [tcp, udp] = await Promise.all([
      lab.from(client).get(url(ip, port)),
      lab.from(client).datagram(ip, port),
    ]);
    t.is(outcomeText(udp), outcomeText(tcp), `TCP and UDP from ${client} to ${ip} ${port}`);
    return outcomeText(tcp);
  }

  for (const [index, family] of ['IPv4', 'IPv6'].entries()) {
    const at = <T>(pair: readonly [T, T]): T => pair[index] as T;

    fact(
      `${family}: a pod reaches a cluster IP whose endpoint is on its own bridge, with its own address`,
      async (t) => {
        const { ips } = await lab.serve('near', { number: 11, pods: ['one'] });
        t.is(await exchange(t, 'client', at(ips), 80), `one saw ${at(podAddresses('client'))}`);
      },
    );

    fact(
      `${family}: a pod reaches a cluster IP whose endpoint is on another node, with its own address`,
      async (t) => {
        const { ips } = await lab.serve('far', { number: 12, pods: ['three'] });
        t.is(await exchange(t, 'client', at(ips), 80), `three saw ${at(podAddresses('client'))}`);
      },
    );

    fact(`${family}: the node reaches a cluster IP, seen as the node`, async (t) => {
      const near = await lab.serve('near', { number: 11, pods: ['one'] });
      const gateway = index === 0 ? '10.244.1.1' : 'fd00:10:244:1::1';
      t.is(await exchange(t, 'node', at(near.ips), 80), `one saw ${gateway}`);
      const far = await lab.serve('far', { number: 12, pods: ['three'] });
      t.is(await exchange(t, 'node', at(far.ips), 80), `three saw ${at(lab.node.addresses)}`);
    });

    fact(`${family}: outside reaches a node port on either node's pods; they see the node`, async (t) => {
      const near = await lab.serve('near', { number: 11, nodePort: 30_011, pods: ['one'] });
      const gateway = index === 0 ? '10.244.1.1' : 'fd00:10:244:1::1';
      t.is(await exchange(t, 'outside', at(lab.node.addresses), near.nodePort ?? 0), `one saw ${gateway}`);
      const far = await lab.serve('far', { number: 12, nodePort: 30_012, pods: ['three'] });
      t.is(
        await exchange(t, 'outside', at(lab.node.addresses), far.nodePort ?? 0),
        `three saw ${at(lab.node.addresses)}`,
      );
    });

    fact(`${family}: pods and the node itself reach a node port too`, async (t) => {
      await lab.serve('far', { number: 12, nodePort: 30_012, pods: ['three'] });
      for (const client of ['client', 'node'] as const) {
        const seen = `three saw ${at(lab.node.addresses)}`;
        t.is(await exchange(t, client, at(lab.node.addresses), 30_012), seen);
      }
    });

    fact(`${family}: a node port is not open on the node's other addresses`, async (t) => {
      await lab.serve('far', { number: 12, nodePort: 30_012, pods: ['three'] });
      const gateway = (index === 0 ? '10.244.1.1' : 'fd00:10:244:1::1') as Ip;
      t.is(await exchange(t, 'client', gateway, 30_012), 'ECONNREFUSED');
    });

    fact(`${family}: a pod reaches itself through its service, seen as the node`, async (t) => {
      const { ips } = await lab.serve('near', { number: 11, nodePort: 30_011, pods: ['one'] });
      const gateway = index === 0 ? '10.244.1.1' : 'fd00:10:244:1::1';
      t.is(await exchange(t, 'one', at(ips), 80), `one saw ${gateway}`);
      t.is(await exchange(t, 'one', at(lab.node.addresses), 30_011), `one saw ${gateway}`);
    });

    fact(`${family}: without endpoints a connection is refused, from everywhere`, async (t) => {
      const { ips } = await lab.serve('empty', { number: 13, nodePort: 30_013, pods: [] });
      for (const client of ['client', 'node'] as const)
        t.is(await exchange(t, client, at(ips), 80), 'ECONNREFUSED');
      for (const client of ['client', 'node', 'outside'] as const) {
        t.is(await exchange(t, client, at(lab.node.addresses), 30_013), 'ECONNREFUSED');
      }
    });

    fact(`${family}: endpoints that come get connections, endpoints that go get none`, async (t) => {
      const { ips } = await lab.serve('moving', { number: 14, pods: [] });
      t.is(await exchange(t, 'client', at(ips), 80), 'ECONNREFUSED');
      for (const pods of [
        ['one'],
        ['one', 'two', 'three'],
        ['two', 'three'],
        ['two'],
        ['three', 'one'],
      ] as const) {
        await lab.changed(() => lab.endpoints('moving', pods));
        t.deepEqual(await answerers(at(ips), 60), [...pods].sort(), pods.join());
      }
      await lab.changed(() => lab.endpoints('moving', []));
      t.is(await exchange(t, 'client', at(ips), 80), 'ECONNREFUSED');
    });

    fact(`${family}: every endpoint gets its share of connections`, async (t) => {
      const { ips } = await lab.serve('shared', { number: 15, pods: ['one', 'two', 'three'] });
      const count = 600;
      const answers = await connect(at(ips), count);
      const expected = count / 3;
      const chiSquare = [...answers.values()].reduce(
        (sum, seen) => sum + (seen - expected) ** 2 / expected,
        0,
      );
      t.is(answers.size, 3);
      // Two degrees of freedom: more than this happens once in a million runs.
      t.true(chiSquare < 27.6, `chi-square ${chiSquare}: ${JSON.stringify([...answers])}`);
    });
  }

  /** How many of these connections each pod answered. TCP, because a UDP port used again belongs to its old flow. */
  async function connect(ip: Ip, count: number): Promise<Map<string, number>> {
    const answers = new Map<string, number>();
    for (let sent = 0; sent < count; sent += 30) {
      const batch = Array.from({ length: Math.min(30, count - sent) }, () =>
        lab.from('client').get(url(ip, 80)),
      );
      for (const outcome of await Promise.all(batch)) {
        const name = outcome.ok ? (outcome.answer?.name ?? '') : outcome.error;
        answers.set(name, (answers.get(name) ?? 0) + 1);
      }
    }
    return answers;
  }

  async function answerers(ip: Ip, count: number): Promise<string[]> {
    return [...(await connect(ip, count)).keys()].sort();
  }

  fact('a service that is deleted is gone, and its address unknown', async (t) => {
    await lab.serve('near', { number: 11, nodePort: 30_011, pods: ['one'] });
    await lab.changed(() => lab.api.delete(SERVICES, 'default/near'));
    const [ip] = frontendAddresses(11);
    if (drains) {
      t.is(await exchange(t, 'client', ip, 80), 'ECONNREFUSED');
      return;
    }
    const text = await lab.nft('list', 'ruleset');
    t.false(text.includes(ip));
    t.false(text.includes('30011'));
  });

  fact('an open connection outlives its endpoint in the list, and a restart of the proxy', async (t) => {
    const { ips } = await lab.serve('held', { number: 16, pods: ['two'] });
    const client = lab.from('client');
    for (const ip of ips) t.true((await client.hold(ip, 81, 10)).ok);
    await lab.changed(() => lab.endpoints('held', ['one']));
    await lab.stopProxy();
    await sleep(50);
    await start();
    const before = await client.report();
    let back = before.byServer.held ?? 0;
    // What was sent until now.
    for (const end = performance.now() + 60_000; back < before.requests && performance.now() < end; ) {
      await sleep(50);
      const { failures, byServer } = await client.report();
      t.deepEqual(failures, []);
      back += byServer.held ?? 0;
    }
    t.deepEqual(before.failures, []);
    t.true(back >= before.requests, `${back} of ${before.requests} bytes came back`);
    for (const ip of ips) t.like(await client.get(url(ip, 80)), { ok: true, answer: { name: 'one' } });
  });
}
