import { linesOf } from '../../kube/lines.ts';
import { until } from './server.ts';

export interface WatchLine {
  readonly type: string;
  // biome-ignore lint/suspicious/noExplicitAny: whatever the server sends is looked at as it is
  readonly object: any;
}

/** A watch as raw lines. */
export class Watcher implements Disposable {
  readonly lines: WatchLine[] = [];
  readonly headers: Headers;
  /** Fulfilled when the server has ended the stream. */
  readonly ended: Promise<void>;
  readonly #controller: AbortController;

  private constructor(response: Response, controller: AbortController) {
    this.headers = response.headers;
    this.#controller = controller;
    this.ended = this.#read(response).catch(() => {});
  }

  /** Resolves as soon as the headers are there. */
  static async open(server: { url: string; token: string }, path: string): Promise<Watcher> {
    const controller = new AbortController();
    const response = await fetch(server.url + path, {
      headers: { authorization: `Bearer ${server.token}` },
      signal: controller.signal,
    });
    if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
    return new Watcher(response, controller);
  }

  /** "ADDED a", one for each line but bookmarks. */
  get changes(): string[] {
    return this.lines
      .filter(({ type }) => type !== 'BOOKMARK')
      .map(({ type, object }) => `${type} ${object.metadata?.name}`);
  }

  async untilCount(count: number): Promise<void> {
    await until(() => this.changes.length >= count, `${count} events (${this.changes.join(', ')})`);
  }

  async untilLine(what: (line: WatchLine) => boolean): Promise<WatchLine> {
    await until(() => this.lines.some(what), 'line');
    const line = this.lines.find(what);
    if (line === undefined) throw new Error('line');
    return line;
  }

  async #read(response: Response): Promise<void> {
    const chunks = response.body as unknown as AsyncIterable<Uint8Array>;
    const buffers = (async function* () {
      for await (const chunk of chunks) yield Buffer.from(chunk);
    })();
    for await (const line of linesOf(buffers, () => {})) this.lines.push(JSON.parse(line));
  }

  [Symbol.dispose](): void {
    this.#controller.abort();
  }
}
