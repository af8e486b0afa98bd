import type { Family } from '../core/address.ts';
import type { V1EndpointSlice } from '../kube/types.ts';
import { addressFamily } from './endpoints.ts';

const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';
/** Slices of headless services are for DNS. */
const HEADLESS_LABEL = 'service.kubernetes.io/headless';
const TRIGGER_TIME_ANNOTATION = 'endpoints.kubernetes.io/last-change-trigger-time';

/** `namespace/name` of the Service a slice belongs to. A slice without the label belongs to none. */
export function serviceOfSlice(slice: V1EndpointSlice | undefined): string | undefined {
  const labels: Readonly<Record<string, unknown>> = slice?.metadata?.labels ?? {};
  const name = labels[SERVICE_NAME_LABEL];
  if (typeof name !== 'string' || name === '' || labels[HEADLESS_LABEL] !== undefined) return undefined;
  return `${slice?.metadata?.namespace}/${name}`;
}

/** What happened in the cluster, and is to be in the kernel. */
export interface Trigger {
  readonly family: Family;
  /** Milliseconds of the epoch. */
  readonly atMs: number;
}

/** What the slice's last version tells of. */
export function triggerOf(slice: V1EndpointSlice | undefined): Trigger | undefined {
  const text: unknown = slice?.metadata?.annotations?.[TRIGGER_TIME_ANNOTATION];
  const atMs = typeof text === 'string' ? Date.parse(text) : Number.NaN;
  const family = slice && addressFamily(slice.addressType);
  return Number.isNaN(atMs) || family === undefined ? undefined : { family, atMs };
}

/** Which slices belong to which service. A slice may change hands. */
export class SliceIndex {
  readonly #services = new Map<string, string>();
  readonly #slices = new Map<string, Set<string>>();

  /** The keys of a service's slices, sorted. */
  slicesOf(service: string): readonly string[] {
    const slices = [...(this.#slices.get(service) ?? [])];
    return slices.length > 1 ? slices.sort() : slices;
  }

  hasSlices(service: string): boolean {
    return this.#slices.has(service);
  }

  /** From now on this slice belongs to this service, or to none. The service that it belonged to. */
  put(slice: string, service: string | undefined): string | undefined {
    const before = this.#services.get(slice);
    if (before === service) return before;
    if (before !== undefined) this.#unlink(slice, before);
    if (service !== undefined) this.#link(slice, service);
    return before;
  }

  #unlink(slice: string, service: string): void {
    this.#services.delete(slice);
    const slices = this.#slices.get(service);
    slices?.delete(slice);
    if (slices?.size === 0) this.#slices.delete(service);
  }

  #link(slice: string, service: string): void {
    this.#services.set(slice, service);
    const slices = this.#slices.get(service) ?? new Set();
    this.#slices.set(service, slices.add(slice));
  }
}
