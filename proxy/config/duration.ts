/** Of one unit in nanoseconds. Go's time.ParseDuration has these. */
const unitNs: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  μs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 6e10,
  h: 3.6e12,
};
/** Go's durations end there, after 292 years. */
const MAX_NS = 2 ** 63;

/** Reads a duration as Go writes it ("1h30m", "250ms", "-1.5h", "0") into milliseconds. Undefined: it is none. */
export function parseDuration(text: string): number | undefined {
  const [, sign = '', rest = ''] = /^([-+]?)(.*)$/s.exec(text) ?? [];
  if (rest === '0') return 0;
  if (!/^(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/.test(rest)) return undefined;
  let ns = 0;
  for (const [, number, unit = ''] of rest.matchAll(/([\d.]+)(\D+)/g))
    ns += Number(number) * (unitNs[unit] ?? 0);
  if (ns >= MAX_NS) return undefined;
  return sign === '-' && ns !== 0 ? -ns / 1e6 : ns / 1e6;
}

/** Writes a duration as Go does: "24h0m0s", "1.5s", "250ms", "0s". */
export function renderDuration(ms: number): string {
  const sign = ms < 0 ? '-' : '';
  const ns = Math.round(Math.abs(ms) * 1e6);
  if (ns === 0) return '0s';
  if (ns < 1e3) return `${sign}${ns}ns`;
  if (ns < 1e6) return `${sign}${decimal(ns, 3)}µs`;
  if (ns < 1e9) return `${sign}${decimal(ns, 6)}ms`;
  const hours = Math.floor(ns / 3.6e12);
  const minutes = Math.floor(ns / 6e10) % 60;
  const seconds = `${decimal(ns % 6e10, 9)}s`;
  if (hours > 0) return `${sign}${hours}h${minutes}m${seconds}`;
  return minutes > 0 ? `${sign}${minutes}m${seconds}` : `${sign}${seconds}`;
}

/** A whole number of nanoseconds divided by 10^digits, without trailing zeros. */
function decimal(ns: number, digits: number): string {
  const text = String(ns).padStart(digits + 1, '0');
  const fraction = text.slice(-digits).replace(/0+$/, '');
  return `${text.slice(0, -digits)}${fraction === '' ? '' : `.${fraction}`}`;
}
