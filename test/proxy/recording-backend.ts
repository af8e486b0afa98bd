import { setTimeout as sleep } from 'node:timers/promises';
import type { Backend, SyncResult, Views } from '../../proxy/backend.ts';
import type { NodeFacts } from '../../proxy/policy.ts';

/** Writes down what it is asked to do. */
export class RecordingBackend implements Backend {
  readonly name = 'nftables';
  readonly calls: string[] = [];
  readonly facts: NodeFacts[] = [];
  disturbed = false;
  /** What others did is more than a change. */
  damaged = false;
  /** Others go on with it. */
  staysDisturbed = false;
  disposed = false;
  /** How long each `replace` takes. */
  replaceMs = 0;
  failNext = 0;
  /** Called at each `replace` and `update`. */
  onSync = () => {};

  async replace(views: Views): Promise<SyncResult> {
    this.disturbed &&= this.staysDisturbed;
    this.damaged = false;
    await sleep(this.replaceMs);
    return this.#record('replace', views);
  }

  async update(changed: Views): Promise<SyncResult> {
    return this.#record('update', changed);
  }

  #record(call: string, views: Views): SyncResult {
    const texts = Array.from(views, ([service, ports]) => {
      return `${service}=${ports.map(({ clusterEndpoints }) => clusterEndpoints.length).join('+') || 'gone'}`;
    });
    this.calls.push([call, ...texts.sort()].join(' '));
    this.onSync();
    const fails = this.failNext > 0;
    if (fails) this.failNext -= 1;
    const failures = fails ? [{ key: 'x', kind: 'create', error: new Error('refused') } as const] : [];
    return { writes: 1, failures };
  }

  async updateNode(facts: NodeFacts): Promise<SyncResult> {
    this.facts.push(facts);
    return { writes: 0, failures: [] };
  }

  async isDisturbed(): Promise<boolean> {
    return this.disturbed;
  }

  async isDamaged(): Promise<boolean> {
    return this.damaged;
  }

  problems(): ReadonlyMap<string, string> {
    return new Map();
  }

  [Symbol.dispose](): void {
    this.disposed = true;
  }
}
