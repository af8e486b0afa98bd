/** Every version of the specification that results can be printed in, oldest first. */
export const supportedVersions = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof supportedVersions)[number];

export const newestVersion = '1.1.0' satisfies CniVersion;

/** What a configuration without `cniVersion` is written in. */
export const defaultVersion: CniVersion = '0.1.0';

export function isSupported(text: string): text is CniVersion {
  return (supportedVersions as readonly string[]).includes(text);
}

type Triple = readonly [major: number, minor: number, micro: number];

/** Reads `1`, `1.0` or `1.0.0`, as the Go library does. */
function parseVersion(text: string): Triple | undefined {
  const match = /^(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?$/.exec(text);
  return match === null ? undefined : [Number(match[1]), Number(match[2] ?? 0), Number(match[3] ?? 0)];
}

/** Whether `version` is `floor` or newer; undefined when one of them is no version. */
export function isAtLeast(version: string, floor: string): boolean | undefined {
  const a = parseVersion(version);
  const b = parseVersion(floor);
  if (a === undefined || b === undefined) return undefined;
  return compare(a, b) >= 0;
}

function compare(a: Triple, b: Triple): number {
  return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
}
