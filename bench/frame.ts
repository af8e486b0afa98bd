import { ratioOf, type Samples, type Spread, type Summary, summarize } from './frame/statistics.ts';

export type { Samples, Spread, Summary } from './frame/statistics.ts';

/** What a figure should be. With both limits it should lie between them. */
export interface Target {
  readonly atMost?: number;
  readonly atLeast?: number;
}

/** One line of a bench's result. */
export interface Figure {
  readonly kind: 'figure';
  /** What was measured, as the table shows it: "ADD, 1 at a time". */
  readonly name: string;
  /** The value; of samples, the median. */
  readonly value: number;
  readonly unit: string;
  readonly p90?: number;
  readonly p99?: number;
  readonly spread?: Spread;
  readonly target?: Target;
}

/** A peer that could not be measured. It is shown in the result: what was not compared is never left out. */
export interface Missing {
  readonly kind: 'missing';
  readonly peer: string;
  readonly why: string;
}

export type Entry = Figure | Missing;

/** What a bench is given: it measures, and says here what it found. */
export interface Frame {
  /** True for the short run of CI: few rounds, small sizes; every path is taken all the same. */
  readonly quick: boolean;
  /** One number: a size, a count, a time that was measured once. */
  figure(name: string, value: number, unit: string, target?: Target): void;
  /** Times in milliseconds. The target is for the median. */
  samples(name: string, valuesMs: Samples, options?: { readonly target?: Target }): Summary;
  /** How many times as long `samplesA` took as `samplesB`. */
  ratio(name: string, samplesA: Samples, samplesB: Samples, options?: { readonly target?: Target }): number;
  /** Names a peer that is not installed or cannot run here. */
  missing(peer: string, why: string): void;
  /** What was found on another machine, with its kernel. */
  elsewhere(kernel: string, entries: readonly Entry[]): void;
  /** A line for the people who wait; goes to stderr. */
  progress(text: string): void;
}

/** Every file `bench/NAME.ts` is such a module. */
export interface Bench {
  readonly description: string;
  run(frame: Frame): Promise<void>;
}

/** A frame that keeps what it is told, in order. */
export class RecordingFrame implements Frame {
  readonly quick: boolean;
  readonly entries: Entry[] = [];
  /** Of another machine, where it was not this one that was measured. */
  kernel: string | undefined;
  readonly #progress: (text: string) => void;

  constructor(options: { quick: boolean; progress: (text: string) => void }) {
    this.quick = options.quick;
    this.#progress = options.progress;
  }

  figure(name: string, value: number, unit: string, target?: Target): void {
    this.entries.push({ kind: 'figure', name, value, unit, ...(target && { target }) });
  }

  samples(name: string, valuesMs: Samples, { target }: { target?: Target } = {}): Summary {
    const summary = summarize(valuesMs);
    const { p50, p90, p99, spread } = summary;
    this.entries.push({
      kind: 'figure',
      name,
      value: p50,
      unit: 'ms',
      p90,
      p99,
      spread,
      ...(target && { target }),
    });
    return summary;
  }

  ratio(name: string, samplesA: Samples, samplesB: Samples, { target }: { target?: Target } = {}): number {
    const { ratio, spread } = ratioOf(samplesA, samplesB);
    this.entries.push({ kind: 'figure', name, value: ratio, unit: 'x', spread, ...(target && { target }) });
    return ratio;
  }

  missing(peer: string, why: string): void {
    this.entries.push({ kind: 'missing', peer, why });
  }

  elsewhere(kernel: string, entries: readonly Entry[]): void {
    this.kernel = kernel;
    this.entries.push(...entries);
  }

  progress(text: string): void {
    this.#progress(text);
  }
}

/** Whether a value is within its target; undefined without one. */
export function meets(value: number, target: Target | undefined): boolean | undefined {
  if (target === undefined) return undefined;
  return value <= (target.atMost ?? Infinity) && value >= (target.atLeast ?? -Infinity);
}

/** One side of a comparison: returns its samples in milliseconds, or nothing when its own duration is the sample. */
// biome-ignore lint/suspicious/noConfusingVoidType: a function that returns nothing is one of the two ways to use it
export type Side = () => readonly number[] | void | Promise<readonly number[] | void>;

/**
 * Runs every side once per round, turning the order round each time, so that drift of the machine falls on all
 * sides alike. Returns the samples of each side by round.
 */
export async function interleave<Name extends string>(
  rounds: number,
  sides: Readonly<Record<Name, Side>>,
): Promise<Record<Name, number[][]>> {
  const names = Object.keys(sides) as Name[];
  const samples = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<Name, number[][]>;
  for (let round = 0; round < rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed())
      samples[name].push(await runSide(sides[name]));
  }
  return samples;
}

async function runSide(side: Side): Promise<number[]> {
  const startMs = performance.now();
  const returned = await side();
  const durationMs = performance.now() - startMs;
  return returned ? [...returned] : [durationMs];
}
