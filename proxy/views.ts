import type { Problem } from '../core/errors.ts';
import type { V1EndpointSlice, V1Service } from '../kube/types.ts';
import { type ServicePortView, type ServiceView, serviceView, type ViewNode } from './view.ts';

const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';

export interface Sources {
  /** By `namespace/name`, as informers keep them; read anew for what is dirty. */
  readonly services: ReadonlyMap<string, V1Service>;
  readonly slices: ReadonlyMap<string, V1EndpointSlice>;
}

/** The views of all services, kept current: what is marked dirty is made anew by the next `refresh`, nothing else. */
export class ServiceViews {
  /** By `namespace/name` of the service; only services that have ports. */
  readonly current = new Map<string, readonly ServicePortView[]>();
  /** What in the objects of a service cannot be used. */
  readonly problems = new Map<string, readonly Problem[]>();
  readonly #sources: Sources;
  readonly #node: ViewNode;
  readonly #serviceOfSlice = new Map<string, string>();
  readonly #slicesOfService = new Map<string, Set<string>>();
  #dirty = new Set<string>();

  constructor(sources: Sources, node: ViewNode) {
    this.#sources = sources;
    this.#node = node;
  }

  /** The Service with this key is not as it was. */
  markService(key: string): void {
    this.#dirty.add(key);
  }

  /** The EndpointSlice with this key is not as it was; it may have changed hands. */
  markSlice(key: string): void {
    const before = this.#serviceOfSlice.get(key);
    const after = serviceOf(this.#sources.slices.get(key));
    if (before !== undefined) this.#dirty.add(before);
    if (after !== undefined) this.#dirty.add(after);
    if (before === after) return;
    this.#unlink(key, before);
    this.#link(key, after);
  }

  #unlink(slice: string, service: string | undefined): void {
    if (service === undefined) return;
    this.#serviceOfSlice.delete(slice);
    const slices = this.#slicesOfService.get(service);
    slices?.delete(slice);
    if (slices?.size === 0) this.#slicesOfService.delete(service);
  }

  #link(slice: string, service: string | undefined): void {
    if (service === undefined) return;
    this.#serviceOfSlice.set(slice, service);
    const slices = this.#slicesOfService.get(service) ?? new Set();
    this.#slicesOfService.set(service, slices.add(slice));
  }

  /** How many services wait to be made anew. */
  get dirty(): number {
    return this.#dirty.size;
  }

  /** Makes the dirty services' views anew and returns them; a service without ports has an empty list. */
  refresh(): Map<string, readonly ServicePortView[]> {
    const dirty = this.#dirty;
    this.#dirty = new Set();
    const changed = new Map<string, readonly ServicePortView[]>();
    for (const service of dirty) changed.set(service, this.#refreshOne(service));
    return changed;
  }

  #refreshOne(service: string): readonly ServicePortView[] {
    const { ports, problems } = this.#viewOf(service);
    if (ports.length === 0) this.current.delete(service);
    else this.current.set(service, ports);
    if (problems.length === 0) this.problems.delete(service);
    else this.problems.set(service, problems);
    return ports;
  }

  /** An object that no API server would let pass must not stop all the others: its service stays as it was. */
  #viewOf(service: string): ServiceView {
    const { services, slices } = this.#sources;
    const keys = [...(this.#slicesOfService.get(service) ?? [])].sort();
    const its = keys.map((key) => slices.get(key)).filter((slice) => slice !== undefined);
    try {
      return serviceView(services.get(service), its, this.#node);
    } catch (error) {
      const problem = { path: service, message: `cannot be understood: ${(error as Error).message}` };
      return { ports: this.current.get(service) ?? [], problems: [problem] };
    }
  }
}

/** `namespace/name` of the Service a slice belongs to. A slice without the label belongs to none. */
function serviceOf(slice: V1EndpointSlice | undefined): string | undefined {
  const name = slice?.metadata?.labels?.[SERVICE_NAME_LABEL];
  return name ? `${slice?.metadata?.namespace}/${name}` : undefined;
}
