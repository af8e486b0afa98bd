import type { Frontend, ServicePortView } from './view.ts';

/** What decides between two Services that claim one frontend. */
export interface Claimant {
  /** `namespace/name`. */
  readonly service: string;
  /** RFC 3339, as the API server sets it. */
  readonly createdAt: string;
  readonly kind: Frontend['kind'];
}

/** Cluster IPs are given out by the API server, as node ports; external IPs anybody can write into an object. */
const ranks: Readonly<Record<Frontend['kind'], number>> = {
  clusterIP: 0,
  nodePort: 0,
  loadBalancerIP: 1,
  externalIP: 2,
};

/** Sorts the one that has the frontend first: what was given to it, then whoever is older, then by name. */
export function compareClaimants(a: Claimant, b: Claimant): number {
  if (ranks[a.kind] !== ranks[b.kind]) return ranks[a.kind] - ranks[b.kind];
  if (a.createdAt !== b.createdAt) return a.createdAt < b.createdAt ? -1 : 1;
  return a.service < b.service ? -1 : 1;
}

/** The identity of a frontend, whoever claims it. */
export function frontendKey({ family, protocol }: ServicePortView, frontend: Frontend): string {
  return frontend.kind === 'nodePort'
    ? `${family} ${protocol} ${frontend.port}`
    : `${frontend.ip} ${protocol} ${frontend.port}`;
}

const nothing: ReadonlyMap<string, Frontend> = new Map();

/** The frontends of these ports, by key; the first port that has one counts. */
export function frontendsByKey(ports: readonly ServicePortView[]): ReadonlyMap<string, Frontend> {
  if (ports.length === 0) return nothing;
  const found = new Map<string, Frontend>();
  for (const port of ports) {
    for (const frontend of port.frontends) {
      const key = frontendKey(port, frontend);
      if (!found.has(key)) found.set(key, frontend);
    }
  }
  return found;
}

/** Who claims which frontend: nearly always one service each. */
export class Claims {
  /** The first that claimed it. */
  readonly #services = new Map<string, string>();
  /** All that do, of frontends that several claim. */
  readonly #rivals = new Map<string, readonly string[]>();

  /** Some frontend is claimed by several services. */
  get areContested(): boolean {
    return this.#rivals.size > 0;
  }

  /** All services that claim a frontend, when there are several. */
  rivals(key: string): readonly string[] {
    return this.#rivals.get(key) ?? nobody;
  }

  add(key: string, service: string): void {
    const first = this.#services.get(key);
    if (first === undefined) this.#services.set(key, service);
    else if (first !== service) this.#rivals.set(key, [...(this.#rivals.get(key) ?? [first]), service]);
  }

  delete(key: string, service: string): void {
    const left = this.#claimantsOf(key).filter((each) => each !== service);
    const [only] = left;
    if (only === undefined) this.#services.delete(key);
    else this.#services.set(key, only);
    if (left.length > 1) this.#rivals.set(key, left);
    else this.#rivals.delete(key);
  }

  #claimantsOf(key: string): readonly string[] {
    const first = this.#services.get(key);
    return this.#rivals.get(key) ?? (first === undefined ? nobody : [first]);
  }
}

const nobody: readonly string[] = [];
