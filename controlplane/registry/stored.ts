import { isDeepStrictEqual } from 'node:util';
import type { KubeObject, V1ObjectMeta } from '../../kube/types.ts';

export type JsonObject = { [field: string]: unknown };

/** An object of any kind, as the registry handles it. */
export interface ApiObject extends KubeObject {
  apiVersion: string;
  kind: string;
  metadata: V1ObjectMeta;
  [field: string]: unknown;
}

const METADATA = '"metadata":{';

/** The text that is stored: everything but the resourceVersion, which is the revision of the write. */
export function encodeObject(object: ApiObject): string {
  const { apiVersion, kind, metadata, ...rest } = object;
  const { resourceVersion: _, ...kept } = metadata;
  return JSON.stringify({ apiVersion, kind, metadata: kept, ...rest });
}

/**
 * A stored object at one revision, as JSON for answers and parsed for code. Both are made when first needed:
 * a list or a watch without selectors is served without parsing anything.
 */
export class Stored {
  readonly revision: number;
  readonly #value: string;
  #json: string | undefined;
  #object: ApiObject | undefined;

  constructor(value: string, revision: number) {
    this.#value = value;
    this.revision = revision;
  }

  get json(): string {
    if (this.#json === undefined) {
      // apiVersion and kind stand before the metadata, and cannot hold this text.
      const place = this.#value.indexOf(METADATA) + METADATA.length;
      const version = `"resourceVersion":"${this.revision}",`;
      this.#json = this.#value.slice(0, place) + version + this.#value.slice(place);
    }
    return this.#json;
  }

  /** Shared by all readers: never to be changed. */
  get object(): ApiObject {
    this.#object ??= this.copy();
    return this.#object;
  }

  /** An object of the caller's own. */
  copy(): ApiObject {
    return JSON.parse(this.json);
  }

  /** Whether the text says the same, in whatever order. */
  holds(text: string): boolean {
    return text === this.#value || isDeepStrictEqual(JSON.parse(text), JSON.parse(this.#value));
  }

  /** The same content with the revision of another write, for the event of a deletion. */
  at(revision: number): Stored {
    return new Stored(this.#value, revision);
  }
}
