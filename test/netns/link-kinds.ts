import { spawnSync } from 'node:child_process';
import type { ExecutionContext } from 'ava';

const UNSHARE = '/usr/bin/unshare';

/** Whether this kernel has no such link, as `ip link add` names it; then the test says so and passes. */
export function lacksLink(t: ExecutionContext, kind: string): boolean {
  const words = ['--net', 'ip', 'link', 'add', 'probe', 'type', ...kind.split(' ')];
  if (spawnSync(UNSHARE, words).status === 0) return false;
  t.log(`left out: this kernel has no ${kind}`);
  t.pass();
  return true;
}
