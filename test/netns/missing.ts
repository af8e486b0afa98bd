import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import type { Variant } from '../../proxy/iptables/program.ts';

/*
 * What a machine may lack that tests need, most of it of the kernel. It is looked for before they are declared: those
 * that lack something are skipped, by name.
 */

type Run = (t: ExecutionContext) => void | Promise<void>;
type Declare = (title: string, run: Run) => void;

/**
 * Declares tests; by default one runs after the other. Where something is missing for them they are skipped, and
 * their titles tell its first line, up to a colon.
 */
export function factOf(missing: string | undefined, kind: Kind = test.serial): Declare {
  if (missing === undefined) return (title, run) => void kind(title, run);
  return (title, run) => void kind.skip(`${title} (${missing.split(/[:\n]/)[0]})`, run);
}

type Kind = Declare & { readonly skip: Declare };

/** Of links as `ip link add` names them ("ipip", "ip6tnl mode ip6ip6 local ::1"). */
export function missingLink(...kinds: readonly string[]): string | undefined {
  const lacking = kinds.find((kind) => inNewNamespace(`ip link add probe type ${kind}`) === undefined);
  return lacking === undefined ? undefined : `this kernel has no ${lacking.split(' ')[0]}`;
}

export function missingBridgeVlans(): string | undefined {
  const shown = inNewNamespace('ip link add br0 type bridge && ip -d link show br0');
  // Without the option a bridge has no such attribute.
  return shown?.includes('vlan_default_pvid') ? undefined : 'this kernel has no CONFIG_BRIDGE_VLAN_FILTERING';
}

/** A program that not every machine has installed. */
export function missingProgram(path: string): string | undefined {
  return existsSync(path) ? undefined : `there is no ${path}`;
}

export function missingIptables(variant: Variant): string | undefined {
  const programs = [`iptables-${variant}`, `ip6tables-${variant}`];
  const failing = programs.find((program) => inNewNamespace(`/usr/sbin/${program} -t nat -S`) === undefined);
  return failing === undefined ? undefined : `${failing} does not work on this kernel`;
}

/** What the commands print; undefined: they failed. */
function inNewNamespace(commands: string): string | undefined {
  const { status, stdout } = spawnSync('/usr/bin/unshare', ['--net', 'sh', '-c', commands], {
    encoding: 'utf8',
  });
  return status === 0 ? stdout : undefined;
}
