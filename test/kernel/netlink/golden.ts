import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Answers of a real kernel, whose state is what the commands in test/golden/netlink/made-by.txt make in an
 * empty network namespace ("other" is a second one). `payloads` are the messages of one dump per family
 * without their nlmsghdr, as hex; `decoded` is what we read in them: `REWRITE=1` writes it anew.
 */
export interface Golden {
  readonly kernel: string;
  readonly payloads: readonly string[];
  readonly decoded: readonly unknown[];
}

export const families = ['link', 'address', 'route', 'rule', 'neighbor', 'fdb'] as const;
export type FamilyName = (typeof families)[number];

export function readGolden(family: FamilyName | 'ack'): Golden {
  return JSON.parse(readFileSync(pathOf(family), 'utf8'));
}

export function payloadsOf(family: FamilyName): Uint8Array[] {
  return readGolden(family).payloads.map((hex) => Buffer.from(hex, 'hex'));
}

export function rewriteGolden(family: FamilyName, decoded: readonly unknown[]): void {
  writeFileSync(pathOf(family), `${JSON.stringify({ ...readGolden(family), decoded }, null, 2)}\n`);
}

function pathOf(family: string): string {
  return join(import.meta.dirname, '../../golden/netlink', `${family}.json`);
}

/** Without the fields that are undefined: as it would stand in a golden file. */
export function plain<T>(value: T): T {
  return JSON.parse(JSON.stringify(value));
}
