import type { Tbf } from './netlink/route/qdisc.ts';

/** How fast frames may go: on the long run, and at once after a pause. */
export interface Shaper {
  /** A second; 0 only in what was read back: not limited. */
  readonly rateBytes: number;
  /** Less than 4 GiB; less than one frame lets nothing pass. */
  readonly burstBytes: number;
}

/** Frames wait no longer than this for their turn, beyond a full bucket; as in the reference plugin. */
const latencyMs = 25;
/** Unit of time of the kernel's packet schedulers (PSCHED_SHIFT 6). */
const tickNs = 64;
const ticksWrap = 2 ** 32;

/** Parameters of the token bucket of a shaper, computed as by the CNI plugin bandwidth. */
export function tbfOf(shaper: Shaper): Tbf {
  const { rateBytes, burstBytes } = shaper;
  const limitBytes = Math.floor((rateBytes * latencyMs) / 1000) + burstBytes;
  return {
    rateBytes,
    limitBytes: Math.min(limitBytes, ticksWrap - 1),
    bufferTicks: Math.floor(ticksOf(shaper)) % ticksWrap,
    burstBytes,
  };
}

/** The shaper of a token bucket that was read; a bucket of more than 274 s comes out smaller than it is. */
export function shaperOf({ rateBytes, bufferTicks }: Tbf): Shaper {
  return { rateBytes, burstBytes: Math.round((bufferTicks * tickNs * rateBytes) / 1e9) };
}

function ticksOf({ rateBytes, burstBytes }: Shaper): number {
  return rateBytes === 0 ? 0 : (burstBytes * 1e9) / rateBytes / tickNs;
}

/** Equal as far as the kernel tells: it gives the burst back as a time of 32 bit, rounded. */
export function sameShaper(wanted: Shaper, actual: Shaper): boolean {
  if (wanted.rateBytes !== actual.rateBytes) return false;
  const ticks = ticksOf(wanted);
  const apart = Math.abs((ticks % ticksWrap) - (ticksOf(actual) % ticksWrap));
  const onePart = wanted.rateBytes === 0 ? 0 : 1e9 / wanted.rateBytes / tickNs;
  return Math.min(apart, ticksWrap - apart) <= 2 + onePart + ticks / 2 ** 28;
}
