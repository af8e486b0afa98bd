import type { VirtualServerRow } from '../../kernel/ipvs.ts';
import type { Endpoint, ServicePortView } from '../view.ts';

type Scheduling = Pick<VirtualServerRow, 'scheduler' | 'schedulerFlags'>;

/** IP_VS_SVC_F_SCHED_MH_FALLBACK: a client whose destination takes no connections gets another one. */
const MH_FALLBACK = 0x8;
/** IP_VS_SVC_F_SCHED_MH_PORT: the client's port counts as well. kube-proxy has it so. */
const MH_PORT = 0x10;

/** Schedulers that do not look at weights, except for 0, and those that are the same with weights. */
const weighted: ReadonlyMap<string, string> = new Map([
  ['rr', 'wrr'],
  ['lc', 'wlc'],
]);

/** Schedulers that single services need, where the node uses this one. */
export function schedulersBeside(configured: string): string[] {
  const other = weighted.get(configured);
  return ['mh', ...(other === undefined ? [] : [other])].filter((name) => name !== configured);
}

export interface SchedulerChoice {
  /** What the node uses. */
  readonly scheduler: string;
  /** Those that the kernel has. */
  readonly schedulers: ReadonlySet<string>;
}

/** How connections to these endpoints are spread; one that the kernel does not have is not asked for. */
export function schedulingOf(
  port: Pick<ServicePortView, 'balancing'>,
  endpoints: readonly Endpoint[],
  { scheduler, schedulers }: SchedulerChoice,
): Scheduling {
  const wanted = wantedOf(port, endpoints, scheduler);
  if (schedulers.has(wanted.scheduler)) return wanted;
  return { scheduler, schedulerFlags: scheduler === 'mh' ? MH_PORT : 0 };
}

function wantedOf(
  { balancing }: Pick<ServicePortView, 'balancing'>,
  endpoints: readonly Endpoint[],
  configured: string,
): Scheduling {
  if (balancing === 'maglev') return { scheduler: 'mh', schedulerFlags: MH_FALLBACK };
  if (configured === 'mh') return { scheduler: 'mh', schedulerFlags: MH_PORT };
  const scheduler = hasUnevenWeights(endpoints) ? (weighted.get(configured) ?? configured) : configured;
  return { scheduler, schedulerFlags: 0 };
}

/** What is not done as these endpoints want it. */
export function schedulingProblem(
  port: Pick<ServicePortView, 'balancing' | 'clusterEndpoints' | 'localEndpoints'>,
  { scheduler, schedulers }: SchedulerChoice,
): string | undefined {
  for (const endpoints of [port.clusterEndpoints, port.localEndpoints]) {
    const wanted = wantedOf(port, endpoints, scheduler);
    if (endpoints.length > 0 && !schedulers.has(wanted.scheduler))
      return `this kernel has no IPVS scheduler "${wanted.scheduler}": its connections are spread by "${scheduler}"`;
  }
  return undefined;
}

function hasUnevenWeights(endpoints: readonly Endpoint[]): boolean {
  return new Set(endpoints.map(({ weight }) => weight).filter((weight) => weight > 0)).size > 1;
}
