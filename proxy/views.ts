import { isDeepStrictEqual } from 'node:util';
import type { Problem } from '../core/errors.ts';
import type { V1EndpointSlice, V1Service } from '../kube/types.ts';
import { type Claimant, Claims, compareClaimants, frontendKey, frontendsByKey } from './claims.ts';
import { quoted } from './object-fields.ts';
import { samePorts } from './same-view.ts';
import { serviceView } from './service-view.ts';
import { SliceIndex, serviceOfSlice, type Trigger, triggerOf } from './slice-index.ts';
import type { Frontend, ServiceHealthCheck, ServicePortView, ServiceView, ViewNode } from './view.ts';

export interface Sources {
  /** By `namespace/name`, as informers keep them; read anew for what is dirty. */
  readonly services: ReadonlyMap<string, V1Service>;
  readonly slices: ReadonlyMap<string, V1EndpointSlice>;
}

const noPorts: readonly ServicePortView[] = [];
const nothing: ServiceView = { ports: noPorts, problems: [] };

/**
 * The views of all services, kept current: what is marked dirty is made anew by the next `refresh`, nothing else.
 * A frontend that two services claim is in the view of one of them only; the other has a problem, until it gets it.
 */
export class ServiceViews {
  /** By `namespace/name` of the service; only services that have ports. */
  readonly current = new Map<string, readonly ServicePortView[]>();
  /** What in the objects of a service cannot be used. */
  readonly problems = new Map<string, readonly Problem[]>();
  /** By service; only those whose load balancer asks. */
  readonly healthChecks = new Map<string, ServiceHealthCheck>();
  readonly #sources: Sources;
  readonly #slices = new SliceIndex();
  /** Each service by itself, whatever others claim. */
  readonly #alone = new Map<string, ServiceView>();
  readonly #claims = new Claims();
  #node: ViewNode;
  #dirty = new Set<string>();
  #triggers: Trigger[] = [];

  constructor(sources: Sources, node: ViewNode) {
    this.#sources = sources;
    this.#node = node;
  }

  get node(): ViewNode {
    return this.#node;
  }

  /** Makes all views dirty, if the node is not as it was. */
  setNode(node: ViewNode): void {
    if (isDeepStrictEqual(node, this.#node)) return;
    this.#node = node;
    for (const service of this.#sources.services.keys()) this.#dirty.add(service);
  }

  /** The Service with this key is not as it was. */
  markService(key: string): void {
    this.#dirty.add(key);
  }

  /** The EndpointSlice with this key is not as it was; it may have changed hands. */
  markSlice(key: string): void {
    const slice = this.#sources.slices.get(key);
    const after = serviceOfSlice(slice);
    const before = this.#slices.put(key, after);
    if (before !== undefined) this.#dirty.add(before);
    if (after !== undefined) this.#dirty.add(after);
    const trigger = after === undefined ? undefined : triggerOf(slice);
    if (trigger !== undefined) this.#triggers.push(trigger);
  }

  /** How many services wait to be made anew. */
  get dirty(): number {
    return this.#dirty.size;
  }

  /** What the slices tell of that were marked since the last call. */
  takeTriggers(): readonly Trigger[] {
    const taken = this.#triggers;
    this.#triggers = [];
    return taken;
  }

  /**
   * Makes the dirty services' views anew and returns those that are not as they were; a service without ports has an
   * empty list. Others are among them where a frontend went from one service to another. What they were goes to
   * `replaced`, unless there is something older.
   */
  refresh(replaced?: Map<string, readonly ServicePortView[]>): Map<string, readonly ServicePortView[]> {
    const dirty = this.#dirty;
    this.#dirty = new Set();
    return this.#refresh(dirty, replaced);
  }

  /**
   * Makes the dirty services' views anew of which both the Service and an EndpointSlice have come: while the first lists
   * come in, the others would be made twice.
   */
  refreshKnown(replaced: Map<string, readonly ServicePortView[]>): void {
    const { services } = this.#sources;
    const known = [...this.#dirty].filter((key) => services.has(key) && this.#slices.hasSlices(key));
    for (const service of known) this.#dirty.delete(service);
    this.#refresh(known, replaced);
  }

  #refresh(
    dirty: Iterable<string>,
    replaced?: Map<string, readonly ServicePortView[]>,
  ): Map<string, readonly ServicePortView[]> {
    const affected = new Set(dirty);
    for (const service of dirty) this.#refreshAlone(service, affected);
    const changed = new Map<string, readonly ServicePortView[]>();
    for (const service of affected) {
      const ports = this.#settle(service);
      const before = this.current.get(service) ?? noPorts;
      if (samePorts(ports, before)) continue;
      if (replaced?.has(service) === false) replaced.set(service, before);
      changed.set(service, ports);
      setOrDelete(this.current, service, ports.length > 0 ? ports : undefined);
    }
    return changed;
  }

  /** Makes one service's view anew; those who claim what it claimed or claims now are affected. */
  #refreshAlone(service: string, affected: Set<string>): void {
    const before = frontendsByKey(this.#alone.get(service)?.ports ?? noPorts);
    const view = this.#viewOf(service);
    const after = frontendsByKey(view.ports);
    for (const key of before.keys()) {
      this.#affectRivals(key, affected);
      if (!after.has(key)) this.#claims.delete(key, service);
    }
    for (const key of after.keys()) {
      if (!before.has(key)) this.#claims.add(key, service);
      this.#affectRivals(key, affected);
    }
    setOrDelete(this.#alone, service, view === nothing ? undefined : view);
    setOrDelete(this.healthChecks, service, view.healthCheck);
  }

  #affectRivals(key: string, affected: Set<string>): void {
    if (this.#claims.areContested) for (const rival of this.#claims.rivals(key)) affected.add(rival);
  }

  /** An object that no API server would let pass must not stop all the others: its service stays as it was. */
  #viewOf(service: string): ServiceView {
    const { services, slices } = this.#sources;
    const object = services.get(service);
    if (object === undefined) return nothing;
    const keys = this.#slices.slicesOf(service);
    const its = keys.map((key) => slices.get(key)).filter((slice) => slice !== undefined);
    try {
      return serviceView(object, its, this.#node);
    } catch (error) {
      const problem = { path: 'service', message: `cannot be understood: ${(error as Error).message}` };
      return { ...(this.#alone.get(service) ?? nothing), problems: [problem] };
    }
  }

  /** What is left of a service's ports when others have had what is theirs; what is missing becomes its problems. */
  #settle(service: string): readonly ServicePortView[] {
    const { ports, problems } = this.#alone.get(service) ?? nothing;
    if (!this.#isContested(ports)) {
      setOrDelete(this.problems, service, problems.length > 0 ? problems : undefined);
      return ports;
    }
    const lost: Problem[] = [];
    const isOwn = (port: ServicePortView, frontend: Frontend) => {
      const owner = this.#ownerOf(frontendKey(port, frontend), service);
      if (owner !== service) lost.push(lossOf(port, frontend, owner));
      return owner === service;
    };
    const left = ports.flatMap((port) => withFrontends(port, isOwn));
    const all = lost.length > 0 ? [...problems, ...lost] : problems;
    setOrDelete(this.problems, service, all.length > 0 ? all : undefined);
    return left;
  }

  #isContested(ports: readonly ServicePortView[]): boolean {
    if (!this.#claims.areContested) return false;
    return ports.some((port) =>
      port.frontends.some((frontend) => this.#claims.rivals(frontendKey(port, frontend)).length > 0),
    );
  }

  #ownerOf(key: string, service: string): string {
    const claimants = this.#claims.rivals(key).map((rival) => this.#claimant(rival, key));
    return claimants.sort(compareClaimants)[0]?.service ?? service;
  }

  #claimant(service: string, key: string): Claimant {
    const createdAt: unknown = this.#sources.services.get(service)?.metadata?.creationTimestamp;
    const kind = frontendsByKey(this.#alone.get(service)?.ports ?? noPorts).get(key)?.kind ?? 'externalIP';
    return { service, kind, createdAt: typeof createdAt === 'string' ? createdAt : NEVER };
  }
}

/** Later than all that was created. */
const NEVER = '9999';

function withFrontends(
  port: ServicePortView,
  isOwn: (port: ServicePortView, frontend: Frontend) => boolean,
): ServicePortView[] {
  const frontends = port.frontends.filter((frontend) => isOwn(port, frontend));
  return frontends.length === 0 ? [] : [{ ...port, frontends }];
}

function lossOf({ name, protocol }: ServicePortView, frontend: Frontend, owner: string): Problem {
  const at = frontend.kind === 'nodePort' ? '' : `${frontend.ip} `;
  const path = `service: port ${quoted(name.slice(name.lastIndexOf(':') + 1))}`;
  return { path, message: `${frontend.kind} ${at}${frontend.port} ${protocol} belongs to ${owner}` };
}

function setOrDelete<V>(map: Map<string, V>, key: string, value: V | undefined): void {
  if (value === undefined) map.delete(key);
  else map.set(key, value);
}
