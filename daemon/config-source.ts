import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Backoff } from '../kube/backoff.ts';
import type { NetworkConfigUse } from './config.ts';
import type { EtcdClient } from './etcd.ts';

const filePollMs = 2_000;

/** Where the network configuration stands, and may change. */
export interface ConfigSource {
  /** For messages. */
  readonly name: string;
  readonly use?: NetworkConfigUse | undefined;
  /** The text now, and again each time it is another one. Goes on until the signal aborts; never just ends. */
  texts(signal: AbortSignal): AsyncIterable<string>;
}

/**
 * A file. It is read again and again, because mounted ConfigMaps change by a symbolic link far above the file. One
 * that is away for a while has not changed.
 */
export function fileConfigSource(
  path: string,
  { use, pollMs = filePollMs }: { readonly use?: NetworkConfigUse; readonly pollMs?: number } = {},
): ConfigSource {
  async function* texts(signal: AbortSignal): AsyncGenerator<string> {
    for (let last: string | undefined; !signal.aborted; ) {
      const text = await readFile(path, 'utf8').catch(() => undefined);
      if (text !== undefined && text !== last) {
        last = text;
        yield text;
      }
      await sleep(pollMs, undefined, { signal }).catch(() => {});
    }
  }
  return { name: path, use, texts };
}

/** The key `<prefix>/config` in etcd. What is wrong with the connection the leases' watch tells. */
export function etcdConfigSource(client: EtcdClient, prefix: string): ConfigSource {
  const key = `${prefix}/config`;
  async function* changes(signal: AbortSignal): AsyncGenerator<string> {
    const { entries, revision } = await client.range(key, signal);
    const found = entries.find((entry) => entry.key === key);
    if (found !== undefined) yield found.value;
    for await (const event of client.watch(key, revision + 1, signal)) {
      if (event.kind === 'put' && event.entry.key === key) yield event.entry.value;
    }
  }
  async function* texts(signal: AbortSignal): AsyncGenerator<string> {
    const backoff = new Backoff();
    for (let last: string | undefined; !signal.aborted; ) {
      try {
        for await (const text of changes(signal)) {
          backoff.reset();
          if (text !== last) yield text;
          last = text;
        }
      } catch {
        if (!signal.aborted) await backoff.wait(signal).catch(() => {});
      }
    }
  }
  return { name: `etcd ${key}`, texts };
}
