import { parseAllDocuments, type YAMLError } from 'yaml';
import { InputError, type Problem } from '../../core/errors.ts';
import { API_VERSION, decode, KIND, type KubeProxyConfiguration } from './document.ts';

/** A file with more references to one place than this is no configuration but an attack on memory. */
const ALIASES_MAX = 100;

/** What is read from a file, and what the reader had to overlook. */
export interface ReadDocument {
  readonly document: KubeProxyConfiguration;
  readonly warnings: readonly string[];
}

/**
 * Reads YAML or JSON. Fields that are unknown or written twice are overlooked with a warning, as kube-proxy does for
 * v1alpha1. Throws InputError with every value that cannot be read.
 */
export function parseDocument(source: string, name: string): ReadDocument {
  const { value, warnings, repeated } = parseYaml(source, name);
  const { document, problems, unknown } = decode(value);
  const all = [...headProblems(value), ...problems];
  if (all.length > 0) throw new InputError(name, all);
  const overlooked = [...unknown, ...repeated];
  if (overlooked.length > 0) {
    const what = overlooked.map(({ path, message }) => `${path} ${message}`).join('; ');
    warnings.push(`${name} is read leniently: ${what}`);
  }
  return { document, warnings };
}

/** Without what cannot be: a file says which kind it is. */
function headProblems(value: unknown): Problem[] {
  const { apiVersion, kind } = (value ?? {}) as { apiVersion?: unknown; kind?: unknown };
  const problem = (path: string, wanted: string, found: unknown): Problem[] =>
    found === wanted
      ? []
      : [{ path, message: `is not "${wanted}": ${found === undefined ? 'missing' : JSON.stringify(found)}` }];
  return [...problem('apiVersion', API_VERSION, apiVersion), ...problem('kind', KIND, kind)];
}

/** YAML 1.1, which Kubernetes' tools read ("yes" is true); the first document of several, as they do. */
function parseYaml(source: string, name: string) {
  const [first, ...others] = refusing(name, () =>
    parseAllDocuments(source, { version: '1.1', merge: true, logLevel: 'silent' }),
  );
  const warnings: string[] = [];
  if (others.length > 0) warnings.push(`${name}: only the first of ${others.length + 1} documents counts`);
  if (first === undefined || !('toJS' in first)) return { value: {}, warnings, repeated: [] };
  const isRepeated = ({ code }: YAMLError) => code === 'DUPLICATE_KEY';
  const broken = first.errors.filter((error) => !isRepeated(error));
  if (broken.length > 0) throw new InputError(name, broken.map(problemOf));
  const repeated = first.errors.filter(isRepeated).map((error) => ({
    path: placeOf(error),
    message: 'says a field again',
  }));
  // As JSON, which knows no references, no dates and no numbers without a value.
  const value: unknown = refusing(name, () =>
    JSON.parse(JSON.stringify(first.toJS({ maxAliasCount: ALIASES_MAX }))),
  );
  return { value, warnings, repeated };
}

function placeOf({ linePos }: YAMLError): string {
  return `line ${linePos?.[0].line}, column ${linePos?.[0].col}`;
}

function problemOf(error: YAMLError): Problem {
  return { path: placeOf(error), message: error.message.split('\n')[0]?.replace(/ at line .*$/, '') ?? '' };
}

/** A text that is nested too deep, or refers to itself, throws all kinds of things. */
function refusing<T>(name: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new InputError(name, [{ path: '*', message: (error as Error).message.split('\n')[0] ?? '' }]);
  }
}
