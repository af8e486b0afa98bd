import { isDeepStrictEqual } from 'node:util';
import type { V1Endpoint, V1EndpointPort, V1EndpointSlice, V1Service } from '../../../kube/types.ts';
import {
  HEADLESS_LABEL,
  MANAGED_BY_LABEL,
  MANAGED_BY_US,
  SERVICE_NAME_LABEL,
  TRIGGER_TIME_ANNOTATION,
} from './labels.ts';
import { addressKey, type EndpointGroup, groupKey } from './plan-groups.ts';

const MOST_PER_SLICE = 100;

export interface SliceChanges {
  readonly create: readonly V1EndpointSlice[];
  readonly update: readonly V1EndpointSlice[];
  readonly delete: readonly V1EndpointSlice[];
}

/** Content of one slice, in the making. */
interface Draft {
  readonly slice: V1EndpointSlice | undefined;
  readonly addressType: string;
  readonly ports: readonly V1EndpointPort[];
  readonly endpoints: V1Endpoint[];
}

/**
 * From the slices that are there to those that should be, with as few writes as it takes: an endpoint stays in
 * its slice, new ones fill up slices that change anyway or have room, and only then a slice is made.
 * A family without endpoints has one empty slice, so that "none" can be told from "not known yet".
 *
 * @param triggerTime when what changes this began, as clients measure from there; undefined: not known
 */
export function planSlices(
  service: V1Service,
  groups: readonly EndpointGroup[],
  existing: readonly V1EndpointSlice[],
  triggerTime: string | undefined,
): SliceChanges {
  const families = service.spec?.ipFamilies ?? [];
  const wanted = [...groups, ...emptyGroups(families, groups)];
  const byGroup = Map.groupBy(existing, (slice) => groupKey(slice.addressType, slice.ports ?? []));
  const drafts = wanted.flatMap((group) => {
    const slices = byGroup.get(groupKey(group.addressType, group.ports)) ?? [];
    return distribute(group, slices);
  });
  const kept = new Set(drafts.map(({ slice }) => slice));
  const rendered = drafts.map((draft) => ({ draft, slice: renderSlice(service, draft, triggerTime) }));
  return {
    create: rendered.flatMap(({ draft, slice }) => (draft.slice === undefined ? [slice] : [])),
    update: rendered.flatMap(({ draft, slice }) =>
      draft.slice === undefined || isSame(slice, draft.slice) ? [] : [slice],
    ),
    delete: existing.filter((slice) => !kept.has(slice)),
  };
}

function emptyGroups(families: readonly string[], groups: readonly EndpointGroup[]): EndpointGroup[] {
  return families
    .filter((family) => !groups.some(({ addressType }) => addressType === family))
    .map((addressType) => ({ addressType, ports: [], endpoints: [] }));
}

function distribute(group: EndpointGroup, slices: readonly V1EndpointSlice[]): Draft[] {
  const { addressType, ports } = group;
  const left = new Map(group.endpoints.map((endpoint) => [addressKey(endpoint), endpoint]));
  const drafts: Draft[] = slices.map((slice) => {
    const endpoints = (slice.endpoints ?? []).flatMap((endpoint) => take(left, addressKey(endpoint)) ?? []);
    return { slice, addressType, ports, endpoints };
  });
  const rest = [...left.values()];
  for (const draft of drafts)
    draft.endpoints.push(...rest.splice(0, MOST_PER_SLICE - draft.endpoints.length));
  while (rest.length > 0) {
    drafts.push({ slice: undefined, addressType, ports, endpoints: rest.splice(0, MOST_PER_SLICE) });
  }
  const full = drafts.filter(({ endpoints }) => endpoints.length > 0);
  if (full.length > 0) return full;
  return [drafts[0] ?? { slice: undefined, addressType, ports, endpoints: [] }];
}

function take<K, V>(map: Map<K, V>, key: K): V | undefined {
  const value = map.get(key);
  map.delete(key);
  return value;
}

function renderSlice(service: V1Service, draft: Draft, triggerTime: string | undefined): V1EndpointSlice {
  const { name = '', namespace, uid = '' } = service.metadata ?? {};
  const known = draft.slice?.metadata;
  const named = known === undefined ? { generateName: `${name}-`, namespace } : known;
  const annotations = { ...known?.annotations };
  delete annotations[TRIGGER_TIME_ANNOTATION];
  if (triggerTime !== undefined) annotations[TRIGGER_TIME_ANNOTATION] = triggerTime;
  const owner = { apiVersion: 'v1', kind: 'Service', name, uid, controller: true, blockOwnerDeletion: true };
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { ...named, labels: sliceLabels(service), annotations, ownerReferences: [owner] },
    addressType: draft.addressType,
    endpoints: draft.endpoints.toSorted((a, b) => (addressKey(a) < addressKey(b) ? -1 : 1)),
    ports: [...draft.ports],
  };
}

function sliceLabels({ metadata, spec }: V1Service): Record<string, string> {
  const { [HEADLESS_LABEL]: _, ...labels } = metadata?.labels ?? {};
  return {
    ...labels,
    [SERVICE_NAME_LABEL]: metadata?.name ?? '',
    [MANAGED_BY_LABEL]: MANAGED_BY_US,
    ...(spec?.clusterIP === 'None' ? { [HEADLESS_LABEL]: '' } : {}),
  };
}

/** A new trigger time alone is no reason to write. */
function isSame(a: V1EndpointSlice, b: V1EndpointSlice): boolean {
  const told = ({ metadata, endpoints = [], ports = [] }: V1EndpointSlice) => ({
    labels: metadata?.labels,
    owners: metadata?.ownerReferences,
    endpoints: endpoints.map((endpoint) => [addressKey(endpoint), endpoint]).sort(),
    ports: new Set(ports),
  });
  return isDeepStrictEqual(told(a), told(b));
}
