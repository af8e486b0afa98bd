import { type Mac, parseMac } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { PodSetting } from '../../kernel/pod-setting.ts';
import type { CniArgs } from '../args.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields, isObject } from '../fields.ts';
import type { Result } from '../result.ts';

/** What is to be set inside the container's namespace. Undefined: left as it is. */
export interface TuningConfig {
  /** By key as written, IFNAME not yet replaced. */
  readonly sysctls: ReadonlyMap<string, string>;
  readonly mac?: Mac | undefined;
  readonly mtuBytes?: number | undefined;
  readonly promiscuous?: true | undefined;
  readonly allMulticast?: boolean | undefined;
  readonly txQueueLength?: number | undefined;
}

export interface TuningInput {
  readonly args: CniArgs;
  /** Patterns of the keys that the operator of the node lets through. Undefined: there is no such list. */
  readonly allowlist?: readonly string[] | undefined;
  /** The configuration as it came, to tell keys that stand in it twice. */
  readonly configText?: string | undefined;
}

/** Where the operator's list is kept, as for the reference plugin. */
export const tuningAllowlistPath = '/etc/cni/tuning/allowlist.conf';
const u31Most = 2 ** 31 - 1;
const u32Most = 2 ** 32 - 1;

/** One pattern (regular expression) a line. */
export function parseAllowlist(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

/**
 * Reads a configuration of type tuning. Of several places for one value `args.cni` goes before `runtimeConfig` (mac
 * only), that before CNI_ARGS (MAC only), and that before the configuration itself.
 */
export function parseTuning(
  config: Fields,
  { args, allowlist, configText }: TuningInput,
): TuningConfig | CniError {
  if (configText !== undefined && hasDuplicateSysctl(configText)) {
    return new CniError(cniCode.invalidConfig, 'duplicated sysctl keys are not allowed');
  }
  const problems: Problem[] = [];
  const top = new FieldReader(config, problems);
  const over = top.object('args').object('cni');
  const macText =
    over.text('mac') ?? (top.object('runtimeConfig').text('mac') || args.mac || top.text('mac'));
  const promiscuous = over.flag('promisc') ?? top.flag('promisc');
  const fields = {
    sysctls: readSysctls(config, over, problems),
    mtuBytes: (over.integer('mtu', 0, u31Most) ?? top.integer('mtu', 0, u31Most)) || undefined,
    promiscuous: promiscuous === true ? promiscuous : undefined,
    allMulticast: over.flag('allmulti') ?? top.flag('allmulti'),
    txQueueLength: over.integer('txQLen', 0, u32Most) ?? top.integer('txQLen', 0, u32Most),
  };
  if (problems.length > 0) {
    const text = problems.map(({ path, message }) => `${path}: ${message}`).join('; ');
    return new CniError(cniCode.invalidConfig, `failed to load netconf: ${text}`);
  }
  const mac = macText ? parseMac(macText) : undefined;
  if (macText && mac === undefined) return refuseMac(macText);
  return checkAllowed(fields.sysctls, allowlist) ?? { ...fields, mac };
}

function refuseMac(text: string): CniError {
  const message = `invalid args ${text} for MAC addr: address ${text}: invalid MAC address`;
  return new CniError(cniCode.invalidConfig, message);
}

/** Keys of this object are data: they stay as they are written. */
function readSysctls(config: Fields, over: FieldReader, problems: Problem[]): Map<string, string> {
  const args = config.get('args');
  const cni = isObject(args) ? fieldOf(args, 'cni') : undefined;
  const places = [
    { path: 'sysctl', value: config.get('sysctl') },
    {
      path: 'args.cni.sysctl',
      value: over.has('sysctl') && isObject(cni) ? fieldOf(cni, 'sysctl') : undefined,
    },
  ];
  const sysctls = new Map<string, string>();
  for (const { path, value = {} } of places) {
    if (!isObject(value)) {
      problems.push({ path, message: `must be an object, not ${JSON.stringify(value)}` });
      continue;
    }
    for (const [key, text] of Object.entries(value)) {
      if (typeof text === 'string') sysctls.set(key, text);
      else problems.push({ path: `${path}.${key}`, message: `must be text, not ${JSON.stringify(text)}` });
    }
  }
  return sysctls;
}

/** The value of a key in any case; of several the last. */
function fieldOf(object: Record<string, unknown>, key: string): unknown {
  return Object.entries(object).findLast(
    ([name, value]) => name.toLowerCase() === key && value !== null,
  )?.[1];
}

/** JSON.parse keeps the last of equal keys; this looks at the text. */
function hasDuplicateSysctl(configText: string): boolean {
  for (const [, body = ''] of configText.matchAll(/"sysctl"\s*:\s*\{((?:"(?:[^"\\]|\\.)*"|[\s:,])*)\}/gi)) {
    const keys = [...body.matchAll(/("(?:[^"\\]|\\.)*")\s*:\s*"(?:[^"\\]|\\.)*"/g)].map(([, key]) => key);
    if (new Set(keys).size < keys.length) return true;
  }
  return false;
}

function checkAllowed(
  sysctls: ReadonlyMap<string, string>,
  allowlist: readonly string[] | undefined,
): CniError | undefined {
  if (allowlist === undefined) return undefined;
  for (const key of sysctls.keys()) {
    const isAllowed = matchesAny(key, allowlist);
    if (isAllowed instanceof CniError) return isAllowed;
    if (isAllowed) continue;
    const text = `Sysctl ${key} is not allowed. Only the following sysctls are allowed: [${allowlist.join(' ')}]`;
    return new CniError(cniCode.invalidConfig, text);
  }
  return undefined;
}

function matchesAny(key: string, patterns: readonly string[]): boolean | CniError {
  for (const pattern of patterns) {
    try {
      if (new RegExp(pattern).test(key)) return true;
    } catch (error) {
      return new CniError(cniCode.invalidConfig, `${tuningAllowlistPath}: ${(error as Error).message}`);
    }
  }
  return false;
}

export interface TuningCall {
  readonly ifname: string;
  /** Of the plugin before in the chain. */
  readonly previous: Result | undefined;
}

export interface TuningRows {
  /** Without the values before, which are still to be read. */
  readonly pod: readonly PodSetting[];
}

/** The settings in the order in which they are made; only parameters of the container's own network are let through. */
export function planTuning(config: TuningConfig, { ifname, previous }: TuningCall): TuningRows | CniError {
  if (previous === undefined) return new CniError(cniCode.invalidConfig, 'Required prevResult missing');
  const pod: PodSetting[] = [];
  const names = new Set<string>();
  for (const [key, value] of config.sysctls) {
    const name = sysctlPath(key, ifname);
    if (name instanceof CniError) return name;
    if (names.has(name))
      return new CniError(cniCode.invalidConfig, 'duplicated sysctl keys are not allowed', key);
    names.add(name);
    pod.push({ kind: 'sysctl', name, value });
  }
  const { mac, promiscuous, mtuBytes, allMulticast, txQueueLength } = config;
  if (mac !== undefined) pod.push({ kind: 'mac', ifname, value: mac });
  if (promiscuous !== undefined) pod.push({ kind: 'promiscuous', ifname, value: promiscuous });
  if (mtuBytes !== undefined) pod.push({ kind: 'mtuBytes', ifname, value: mtuBytes });
  if (allMulticast !== undefined) pod.push({ kind: 'allMulticast', ifname, value: allMulticast });
  if (txQueueLength !== undefined) pod.push({ kind: 'txQueueLength', ifname, value: txQueueLength });
  return { pod };
}

/**
 * The path below /proc/sys. Keys are written with dots or with slashes; the first of them tells which parts the
 * words, as in sysctl(8), so that names of links may have the other. IFNAME is the container's interface, once.
 */
function sysctlPath(key: string, ifname: string): string | CniError {
  const isDotted = /[./]/.exec(key)?.[0] !== '/';
  const swapped = isDotted ? key.replace(/[./]/g, (sign) => (sign === '.' ? '/' : '.')) : key;
  const path = swapped.replace('IFNAME', () => ifname);
  const words = path.split('/');
  const isPlain = words.every(
    (word) => word !== '' && word !== '.' && word !== '..' && /^[\w.:@-]+$/.test(word),
  );
  if (words[0] === 'net' && words.length > 1 && isPlain) return path;
  return new CniError(cniCode.invalidConfig, `invalid net sysctl key: ${JSON.stringify(path)}`);
}

/** The result with the container's new MAC address and MTU. */
export function applyTuning(result: Result, { pod }: TuningRows): Result {
  const interfaces = result.interfaces.map((each) => {
    const settings = pod.filter((row) => row.kind !== 'sysctl' && row.ifname === each.name);
    const mac = settings.find((row) => row.kind === 'mac')?.value;
    const mtuBytes = settings.find((row) => row.kind === 'mtuBytes')?.value;
    const changed = { ...each, mac: mac ?? each.mac, mtuBytes: mtuBytes ?? each.mtuBytes };
    return each.sandbox ? changed : each;
  });
  return { ...result, interfaces };
}
