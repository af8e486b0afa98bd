import type { Logger } from 'pino';
import type { Problem } from '../core/errors.ts';

/** Problems of one service that are spelled out; a slice may hold a thousand bad addresses. */
const SPELLED_OUT = 10;

/** Says once what is wrong with a service, and once that it is well again. */
export class ProblemLog {
  readonly #log: Logger;
  /** By service. */
  readonly reported = new Map<string, string>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** What is wrong now: in the objects, and with doing what they say. */
  report(objects: ReadonlyMap<string, readonly Problem[]>, backend: ReadonlyMap<string, string>): void {
    const now = new Map(backend);
    for (const [service, problems] of objects) {
      const text = [problemText(problems), backend.get(service)].filter((part) => part !== undefined);
      now.set(service, text.join('; '));
    }
    for (const [service, problem] of now) {
      if (this.reported.get(service) !== problem) this.#log.warn({ service, problem }, 'service problem');
      this.reported.set(service, problem);
    }
    for (const service of this.reported.keys()) {
      if (!now.has(service) && this.reported.delete(service))
        this.#log.info({ service }, 'service is well again');
    }
  }
}

function problemText(problems: readonly Problem[]): string {
  const texts = [...new Set(problems.map(({ path, message }) => `${path}: ${message}`))];
  const more = texts.length - SPELLED_OUT;
  return [...texts.slice(0, SPELLED_OUT), ...(more > 0 ? [`and ${more} more`] : [])].join('; ');
}
