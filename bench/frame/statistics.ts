/** Samples of one quantity: one list, or one list per round (see `interleave`). */
export type Samples = readonly number[] | readonly (readonly number[])[];

/** Percentiles over all samples; the spread is the lowest and the highest median of a round (of one round: sample). */
export interface Summary {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly spread: Spread;
}

export type Spread = readonly [lowest: number, highest: number];

/** The samples of each round; a flat list is one round. */
function roundsOf(samples: Samples): readonly (readonly number[])[] {
  const flat = samples.filter((entry) => typeof entry === 'number');
  const rounds = flat.length > 0 ? [flat] : samples.filter((entry) => typeof entry !== 'number');
  if (rounds.length === 0 || rounds.some((round) => round.length === 0)) throw new Error('no samples');
  return rounds;
}

/** The nearest-rank percentile: always one of the samples. `share` is between 0 and 1. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const found = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
  if (found === undefined) throw new Error('no samples');
  return found;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

export function summarize(samples: Samples): Summary {
  const rounds = roundsOf(samples);
  const all = rounds.flat();
  return {
    p50: median(all),
    p90: percentile(all, 0.9),
    p99: percentile(all, 0.99),
    spread: spreadOf(rounds.length > 1 ? rounds.map(median) : all),
  };
}

/**
 * How many times a is b: the median of the rounds' ratios when both were measured in the same rounds,
 * because what slows one round down (another process, a cold cache) then slows down both sides of it.
 */
export function ratioOf(a: Samples, b: Samples): { readonly ratio: number; readonly spread: Spread } {
  const [roundsA, roundsB] = [roundsOf(a), roundsOf(b)];
  if (roundsA.length !== roundsB.length) {
    const ratio = median(roundsA.flat()) / median(roundsB.flat());
    return { ratio, spread: [ratio, ratio] };
  }
  const ratios = roundsA.map((round, index) => median(round) / median(roundsB[index] ?? []));
  return { ratio: median(ratios), spread: spreadOf(ratios) };
}

function spreadOf(values: readonly number[]): Spread {
  return [percentile(values, 0), percentile(values, 1)];
}
