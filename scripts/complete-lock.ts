import { readFileSync, writeFileSync } from 'node:fs';

/** One entry of `packages` in package-lock.json, as far as it matters here. */
interface LockEntry {
  readonly version?: string;
  readonly dev?: boolean;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly [field: string]: unknown;
}

export interface Lock {
  readonly packages: Readonly<Record<string, LockEntry>>;
}

const systems = [
  'android',
  'darwin',
  'freebsd',
  'linux',
  'netbsd',
  'openbsd',
  'openharmony',
  'sunos',
  'win32',
];
const processors = ['arm', 'arm64', 'ia32', 'loong64', 'ppc64', 'riscv64', 's390x', 'x64'];

/**
 * The optional packages that some package names and the lock file lacks. A registry that does not hold the
 * binaries of other platforms makes `npm install` leave them out, and then `npm ci` refuses the lock file
 * ("Missing: … from lock file"), on every machine.
 */
export function missingEntries({ packages }: Lock): Record<string, LockEntry> {
  const missing: Record<string, LockEntry> = {};
  for (const [place, { optionalDependencies = {}, dev }] of Object.entries(packages)) {
    for (const [name, version] of Object.entries(optionalDependencies)) {
      if (!isFound(packages, place, name))
        missing[`node_modules/${name}`] = entryOf(name, version, dev === true);
    }
  }
  return missing;
}

/** Node's own search: beside the package, then in every folder above it. */
function isFound(packages: Lock['packages'], place: string, name: string): boolean {
  const above = place.slice(0, Math.max(0, place.lastIndexOf('node_modules/') - 1));
  if (packages[`${place === '' ? '' : `${place}/`}node_modules/${name}`] !== undefined) return true;
  return place !== '' && isFound(packages, above, name);
}

/** The platform stands in the name of such packages: "@biomejs/cli-linux-arm64-musl". */
function entryOf(name: string, version: string, dev: boolean): LockEntry {
  const words = name.split(/[/-]/);
  const libc = words.flatMap((word) => (/^musl/.test(word) ? ['musl'] : /^gnu/.test(word) ? ['glibc'] : []));
  return {
    version,
    cpu: words.filter((word) => processors.includes(word)),
    ...(dev && { dev }),
    ...(libc.length > 0 && { libc }),
    optional: true,
    os: words.filter((word) => systems.includes(word)),
  };
}

if (import.meta.main) {
  const url = new URL('../package-lock.json', import.meta.url);
  const lock: Lock = JSON.parse(readFileSync(url, 'utf8'));
  const missing = missingEntries(lock);
  const entries = Object.entries({ ...lock.packages, ...missing });
  const packages = Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : 1)));
  writeFileSync(url, `${JSON.stringify({ ...lock, packages }, null, 2)}\n`);
  for (const place of Object.keys(missing)) console.log(`added ${place}`);
}
