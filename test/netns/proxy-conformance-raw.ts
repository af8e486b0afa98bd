import type { Ip } from '../../core/address.ts';
import { frontendAddress, type Target } from './proxy-backend-lab.ts';
import type { Stage } from './proxy-conformance.ts';
import { each, expectedNames, type Flow, frontendKinds, hairpins, matrix } from './proxy-flows.ts';
import { PORT } from './proxy-lab.ts';
import { ping, RawPort } from './proxy-packets-raw.ts';
import { connectSctp, serveSctp } from './proxy-packets-sctp.ts';

/*
 * Packets for which there need not be sockets. They come from a pod and from outside: what the node itself sends goes
 * through its own kernel's sockets.
 */

const clients = ['client', 'outside', 'one'] as const;
type Client = (typeof clients)[number];
const CONNECTIONS = 4;
const MOST_ROUNDS = 10;
const ANSWER_LIMIT_MS = 30_000;
const SILENCE_MS = 500;

export function rawFacts({ differs, expectedOf, fact, lab, start }: Stage): void {
  const gateways = {
    pods: () => [lab().lab.node.namespace, 'cni0'] as const,
    outside: () => [lab().lab.node.namespace, 'eth0'] as const,
  };

  async function openPorts(stack: DisposableStack): Promise<Record<Client | 'three', RawPort>> {
    const { lab: proxyLab } = lab();
    const open = async (where: Client | 'three', gateway: readonly [string, string]) =>
      stack.use(await RawPort.open(proxyLab.from(where).namespace, gateway));
    return {
      client: await open('client', gateways.pods()),
      one: await open('one', gateways.pods()),
      outside: await open('outside', gateways.outside()),
      three: await open('three', [proxyLab.otherNode.namespace, 'cni0']),
    };
  }

  fact('SCTP: who is reached, and seen as whom', async (t, family) => {
    await start();
    using stack = new DisposableStack();
    const ports = await openPorts(stack);
    for (const name of ['one', 'three'] as const) stack.defer(serveSctp(ports[name], name, PORT));
    const flows: Flow[] = [
      ...matrix.filter(([source]) => source !== 'node'),
      ...each(['client', 'outside'], frontendKinds, 4, 'refused'),
      ...hairpins,
    ];
    // Service 13 has another protocol at its port.
    if (!differs.leavesUnusedAddresses) flows.push(['client', 'clusterIP', 13, 'refused']);
    const seen = async (source: Client, at: Target, expected: string) => {
      const own = lab().addressOf(source, family);
      const names = new Set<string>();
      const texts = new Set<string>();
      for (let round = 0; round < MOST_ROUNDS; round += 1) {
        const wanted = expectedNames(expected);
        if (round > 0 && (wanted === 'no answer' || wanted.every((name) => names.has(name)))) break;
        const tries = Array.from({ length: CONNECTIONS }, () =>
          connectSctp(ports[source], own, at, ANSWER_LIMIT_MS),
        );
        for (const outcome of await Promise.all(tries)) {
          const text = lab().textOf(source, at, [outcome]);
          const [name = '', ...mark] = outcome.ok ? text.split(' ') : [text];
          names.add(name);
          texts.add(['', ...mark].join(' '));
        }
      }
      return `${[...names].sort().join('+')}${[...texts].sort().join(' or')}`;
    };
    const texts = await Promise.all(
      flows.map((flow) => {
        const [source, kind, number] = flow;
        return seen(source as Client, lab().target(family, kind, number), expectedOf(flow));
      }),
    );
    // Not before all have ended: their ports are closed behind a failure.
    for (const [index, flow] of flows.entries())
      t.is(texts[index], expectedOf(flow), `SCTP from ${flow[0]} to ${flow[1]} of ${flow[2]}`);
  });

  const echo = differs.leavesUnusedAddresses
    ? 'an echo request to a cluster IP goes by the routes'
    : 'an echo request to a cluster IP is refused, and to an address that no service has dropped';
  fact(echo, async (t, family) => {
    await start();
    using stack = new DisposableStack();
    const ports = await openPorts(stack);
    const ask = (source: Client, ip: Ip, limitMs = ANSWER_LIMIT_MS) =>
      ping(ports[source], lab().addressOf(source, family), ip, limitMs);
    // They do go, and come back.
    t.is(await ask('client', lab().nodeAddress(family)), 'echo');
    const vip = (number: number) => frontendAddress(family, 'clusterIP', number);
    if (differs.leavesUnusedAddresses) {
      // It goes by the routes, to the machine outside; that knows no way back to pods.
      const { promise: heard, resolve } = Promise.withResolvers<Ip>();
      stack.defer(ports.outside.listen(({ destination }) => destination === vip(99) && resolve(destination)));
      t.is(await ask('client', vip(99), SILENCE_MS), 'no answer');
      t.is(await heard, vip(99));
      return;
    }
    for (const source of ['client', 'outside'] as const) {
      t.is(await ask(source, vip(1)), 'refused', `${source}: of a service that has endpoints`);
      t.is(await ask(source, vip(4)), 'refused', `${source}: of one that has none`);
    }
    t.is(await ask('client', vip(98), SILENCE_MS), 'no answer', 'of no service');
  });
}
