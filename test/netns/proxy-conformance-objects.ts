import { applyBatch } from '../../cli/cluster/lab.ts';
import { families, type Ip } from '../../core/address.ts';
import type { V1EndpointSlice, V1Service } from '../../kube/types.ts';
import type { Views } from '../../proxy/backend.ts';
import { ServiceViews } from '../../proxy/views.ts';
import { parseService, parseSlice } from '../proxy/objects.ts';
import { frontendAddress } from './proxy-backend-lab.ts';
import type { Stage } from './proxy-conformance.ts';
import { each, externalKinds, type Flow, sources } from './proxy-flows.ts';
import { PORT, podAddresses } from './proxy-lab.ts';

/*
 * From Services and EndpointSlices to packets: who is chosen, where kube-proxy's own tests ask more of the choice than
 * a policy. A service number N has the addresses and node port of test service N.
 */

/** What an EndpointSlice says of a pod; `undefined`: the pod is not in it. */
type Said = Partial<Record<'one' | 'two' | 'three', string>>;

const ready = 'ready=true,serving=true,terminating=false';
const going = 'ready=false,serving=true,terminating=true';
const unusable = 'ready=false,serving=false,terminating=true';

/** Objects as an API server would have them, and what becomes of them on node-1 in zone a. */
class Objects {
  readonly #services = new Map<string, V1Service>();
  readonly #slices = new Map<string, V1EndpointSlice>();
  readonly #views: ServiceViews;

  constructor() {
    const sources = { services: this.#services, slices: this.#slices };
    this.#views = new ServiceViews(sources, { nodeName: 'node-1', zone: 'a', nodeIps: [] });
  }

  /** `more`: words of `parseService`; a load balancer's address is in `frontendAddress`. */
  service(number: number, more: string, ips = addressesOf('clusterIP', number)): this {
    const ports = `ports=web:80/TCP@${30_000 + number},dns:80/UDP@${30_000 + number}`;
    const key = `default/o${number}`;
    this.#services.set(key, parseService(`${key} type=LoadBalancer ips=${ips} ${ports} ${more}`));
    this.#views.markService(key);
    return this;
  }

  endpoints(number: number, said: Said, addressText = (ip: Ip): string => ip): this {
    for (const family of families) {
      const places = Object.entries(said).map(([pod, words]) => {
        const ip = podAddresses(pod as keyof Said)[family === 4 ? 0 : 1];
        return `${addressText(ip)},node=${pod === 'three' ? 'node-2' : 'node-1'},${words}`;
      });
      const key = `default/o${number}-${family}`;
      const words = `${key} service=o${number} family=IPv${family} ports=web:${PORT}/TCP,dns:${PORT}/UDP`;
      this.#slices.set(key, parseSlice(`${words} ${places.join(' ')}`));
      this.#views.markSlice(key);
    }
    return this;
  }

  withoutSlices(number: number): this {
    for (const family of families) {
      this.#slices.delete(`default/o${number}-${family}`);
      this.#views.markSlice(`default/o${number}-${family}`);
    }
    return this;
  }

  /** What changed since the last call. */
  changes(): Views {
    return this.#views.refresh();
  }
}

type AddressKind = Parameters<typeof frontendAddress>[1];

function addressesOf(kind: AddressKind, number: number): string {
  return families.map((family) => frontendAddress(family, kind, number)).join();
}

/** With an address of the load balancer. */
const balanced = (number: number) => `lb=${addressesOf('loadBalancerIP', number)}`;

export function objectFacts({ check, differs, fact, lab, start }: Stage): void {
  /** IPVS has one list for all. */
  const inside = (names: string) => (differs.hasOneListForAll === true ? 'one' : names);

  fact('terminating endpoints serve where none is ready, by each policy by itself', async (t, family) => {
    const objects = new Objects()
      .service(31, `outside=Local ${balanced(31)}`)
      .service(32, 'inside=Local')
      .service(33, balanced(33));
    const running = await start({}, []);
    const when = async (said: Said | 'no slices', flows: readonly Flow[]) => {
      for (const number of [31, 32, 33]) {
        if (said === 'no slices') objects.withoutSlices(number);
        else objects.endpoints(number, said);
      }
      await lab().updateViews(running, objects.changes());
      await check(t, family, flows);
    };
    await when({ one: ready, two: going, three: ready }, [
      ...each(['client'], ['clusterIP'], 31, 'one+three'),
      ...each(['client'], ['loadBalancerIP'], 31, inside('one+three')),
      ...each(['outside'], ['loadBalancerIP', 'nodePort'], 31, 'one'),
      ...each(['client'], ['clusterIP'], 32, 'one'),
      ...each(['outside'], ['loadBalancerIP'], 33, 'one+three M'),
    ]);
    // The one that goes is the only one here: it serves who must stay here, and nobody else.
    await when({ one: going, two: unusable, three: ready }, [
      ...each(['client'], ['clusterIP'], 31, 'three'),
      ...each(['client'], ['nodePort'], 31, inside('three')),
      ...each(['outside'], ['loadBalancerIP', 'nodePort'], 31, 'one'),
      ...each(['client'], ['clusterIP'], 32, 'one'),
      ...each(['client'], ['clusterIP'], 33, 'three'),
      ...each(['outside'], ['nodePort'], 33, 'three M'),
    ]);
    await when({ one: going, two: going, three: going }, [
      ...each(['client'], ['clusterIP'], 31, 'one+three+two'),
      ...each(['outside'], ['loadBalancerIP'], 31, 'one+two'),
      ...each(['client'], ['clusterIP'], 32, 'one+two'),
      ...each(['outside'], ['loadBalancerIP'], 33, 'one+three+two M'),
    ]);
    await when({ one: unusable, three: going }, [
      ...each(['client'], ['clusterIP', 'loadBalancerIP'], 31, 'three'),
      ...each(['outside'], ['loadBalancerIP', 'nodePort'], 31, 'no answer'),
      ...each(['client', 'node'], ['clusterIP'], 32, 'no answer'),
      ...each(['client'], ['clusterIP'], 33, 'three'),
    ]);
    const refusals = [31, 32, 33].flatMap((number) =>
      each(sources, ['clusterIP', 'nodePort'], number, 'refused'),
    );
    await when({ one: unusable, three: unusable }, refusals);
    await when('no slices', refusals);
  });

  fact('topology hints choose among ready endpoints, and not for the policy Local', async (t, family) => {
    const objects = new Objects().service(35, `outside=Local ${balanced(35)}`);
    const running = await start({}, []);
    const at = async (said: Said, names: string, local: string) => {
      await lab().updateViews(running, objects.endpoints(35, said).changes());
      await check(t, family, [
        ...each(['client'], ['clusterIP'], 35, names),
        ...each(['outside'], ['loadBalancerIP'], 35, local),
      ]);
    };
    await at({ one: 'zones=b', two: 'zones=a', three: 'zones=a' }, 'three+two', 'one+two');
    await at({ one: 'zones=b', two: 'zones=a+b', three: 'zones=b' }, 'two', 'one+two');
    // One without hints: nobody's count.
    await at({ one: 'zones=b', two: 'ready=true', three: 'zones=a' }, 'one+three+two', 'one+two');
    await at({ one: 'zones=b', three: 'zones=b' }, 'one+three', 'one');
    const byNode = { one: 'zones=a,nodes=node-1', three: 'zones=a,nodes=node-2' };
    await at(byNode, 'one', 'one');
    // Those that go are not looked at for hints.
    await at({ one: `zones=a,${going}`, two: `zones=b,${going}`, three: 'zones=a' }, 'three', 'one+two');
  });

  fact('an address whose load balancer stands before the nodes goes there', async (t, family) => {
    const [own, behind] = [34, 44].map((number) => frontendAddress(family, 'loadBalancerIP', number));
    const ingress = families.flatMap((each) => [
      frontendAddress(each, 'loadBalancerIP', 34),
      `${frontendAddress(each, 'loadBalancerIP', 44)}/Proxy`,
    ]);
    const { namespace } = lab().lab.outside;
    const bits = family === 4 ? 32 : 128;
    await applyBatch({ namespace, lines: [`addr replace ${behind}/${bits} dev lo`] });
    const balancer = lab().lab.startClient('outside');
    await balancer.serve('balancer', 80);
    t.teardown(() => balancer[Symbol.asyncDispose]());
    const objects = new Objects().service(34, `lb=${ingress}`).endpoints(34, { one: ready });
    const running = await start({}, []);
    await lab().updateViews(running, objects.changes());
    t.is(await lab().seen('node', { ip: behind as Ip, port: 80 }), 'balancer');
    t.is(await lab().seen('node', { ip: own as Ip, port: 80 }), 'one M');
  });

  fact('irregular addresses are those that they mean', async (t, family) => {
    const irregular = (text: string) =>
      text.replaceAll(/\d+(?=\.)|(?<=\.)\d+/g, (digits) => digits.padStart(3, '0'));
    const words = [
      `external=${addressesOf('externalIP', 36)}`,
      balanced(36),
      'ranges=172.030.000.000/24,fd30::/64',
    ];
    const objects = new Objects()
      .service(36, words.map(irregular).join(' '), irregular(addressesOf('clusterIP', 36)))
      .endpoints(36, { one: ready, three: ready }, irregular);
    const running = await start({}, []);
    await lab().updateViews(running, objects.changes());
    await check(t, family, [
      ...each(['client'], ['clusterIP'], 36, 'one+three'),
      ...each(['outside'], externalKinds, 36, 'one+three M'),
      ...each(['client'], ['loadBalancerIP'], 36, 'no answer'),
    ]);
  });
}
