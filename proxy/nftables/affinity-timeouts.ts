/*
 * The kernel takes the time that an element lives from the rule that makes it. So there is one rule for each of these
 * times, and a service goes by the shortest that is not shorter than its own: what people write is among them, and
 * the others are longer by a tenth at most.
 */

/** Up to `last` in steps of `step` seconds, from where the row above ends. */
const rows: readonly (readonly [last: number, step: number])[] = [
  [60, 1],
  [120, 5],
  [300, 10],
  [600, 30],
  [3600, 60],
  [10_800, 300],
  [21_600, 900],
  [43_200, 1800],
  [86_400, 3600],
];

/** Ascending, in seconds. */
export const affinityTimeouts: readonly number[] = rows.flatMap(([last, step], index) => {
  const first = rows[index - 1]?.[0] ?? 0;
  return Array.from({ length: (last - first) / step }, (_, count) => first + (count + 1) * step);
});

/** The time that stands for this one. Beyond a day, which the API does not let through, it is a day. */
export function affinityTimeout(seconds: number): number {
  return affinityTimeouts.find((timeout) => timeout >= seconds) ?? 86_400;
}
