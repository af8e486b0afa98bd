import type { Logger } from 'pino';
import type { Problem } from '../core/errors.ts';

/** Says once what is wrong with a service, and once that it is well again. */
export class ProblemLog {
  readonly #log: Logger;
  readonly #reported = new Map<string, string>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** What is wrong now: in the objects, and with doing what they say. */
  report(objects: ReadonlyMap<string, readonly Problem[]>, backend: ReadonlyMap<string, string>): void {
    const now = new Map(backend);
    for (const [service, problems] of objects) {
      now.set(service, problems.map(({ path, message }) => `${path}: ${message}`).join('; '));
    }
    for (const [service, problem] of now) {
      if (this.#reported.get(service) !== problem) this.#log.warn({ service, problem }, 'service problem');
      this.#reported.set(service, problem);
    }
    for (const service of this.#reported.keys()) {
      if (!now.has(service) && this.#reported.delete(service))
        this.#log.info({ service }, 'service is well again');
    }
  }
}
