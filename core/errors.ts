/** One thing wrong with a configuration or an object, with the place where it stands. */
export interface Problem {
  /** Path in the input, such as `ipam.ranges[0][0].subnet` or the name of an environment variable. */
  readonly path: string;
  /** What is wrong, naming the value. */
  readonly message: string;
}

/** Input that cannot be used. Holds every problem found, not only the first. */
export class InputError extends Error {
  override readonly name = 'InputError';
  readonly problems: readonly Problem[];

  constructor(what: string, problems: readonly Problem[]) {
    super(`${what}: ${problems.map((problem) => `${problem.path}: ${problem.message}`).join('; ')}`);
    this.problems = problems;
  }
}
