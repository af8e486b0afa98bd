import { type Lane, native } from '../native/index.ts';

export type { Descriptor, Lane } from '../native/index.ts';

/** A thread for sockets whose exchanges may take long: what waits for the kernel there holds up nothing else. */
export function openLane(): Lane & Disposable {
  const lane = native.lane();
  return Object.assign(lane, { [Symbol.dispose]: () => lane.close() });
}
