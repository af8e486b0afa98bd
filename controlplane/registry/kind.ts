import type { StatusCause } from '../../kube/errors.ts';
import type { KubeObject, Resource } from '../../kube/types.ts';
import type { Shape } from './shape.ts';

/**
 * Everything that is particular to one kind: one row of the table of kinds. What a row leaves out is as for
 * any stored object. The functions get objects whose fields have the types that `shape` says.
 */
export interface Kind<T extends KubeObject = KubeObject> extends Resource {
  readonly kind: string;
  readonly singular: string;
  readonly shortNames: readonly string[];
  readonly categories?: readonly string[];
  /** False where all objects of a kind cannot be deleted in one request. */
  readonly hasDeleteCollection?: boolean;
  /** "status": written on its own path, and then untouched by the main one. */
  readonly subresources: readonly ('status' | 'finalize')[];
  /** True where `status` in a created object is kept, as for nodes, which report about themselves. */
  readonly keepsStatusOnCreate?: boolean;
  /** True where `metadata.generation` counts the changes outside of metadata and status. */
  readonly hasGeneration?: boolean;
  readonly shape: { readonly [field: string]: Shape };
  /** By field path without indexes, such as `spec.containers.env`: the key that a strategic merge joins by. */
  readonly mergeKeys?: Readonly<Record<string, string>>;
  /** What is wrong with a name of this kind. */
  nameProblem(name: string): string | undefined;
  /** Fills in what was left out, in place. */
  setDefaults?(object: T): void;
  /** Before validation of an update: takes over from the current object what an update may leave out. */
  prepareUpdate?(object: T, current: T): void;
  /** All problems of the object, and of the change when there is a current one. */
  validate?(object: T, current: T | undefined): StatusCause[];
  /** The values of the fields that a field selector may name, besides metadata.name and metadata.namespace. */
  fields?(object: T): Readonly<Record<string, string>>;
  /** How long a deleted object is kept for those who must let go of it; 0 or undefined: not at all. */
  graceSeconds?(object: T): number;
  /** In place, when deletion begins but the object stays for now. */
  markTerminating?(object: T): void;
  /** Who keeps a deleted object besides metadata.finalizers. */
  finalizers?(object: T): readonly string[];
  /** Names that cannot be deleted. */
  readonly undeletable?: readonly string[];
}

/**
 * Gives out what is unique among the objects of a kind (addresses, ports). Its state is derived: first from
 * all stored objects, then from every write. Calls come one at a time.
 */
export interface Admission {
  /** Fills in, in place, what the object is given, and says what it cannot have. Remembers nothing. */
  admit(object: KubeObject, current: KubeObject | undefined): readonly StatusCause[];
  /** A write went through: `undefined` before a creation and after a deletion. */
  written(object: KubeObject | undefined, previous: KubeObject | undefined): void;
}
