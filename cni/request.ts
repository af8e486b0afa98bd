import { type CniArgs, parseCniArgs } from './args.ts';
import { CniError, cniCode } from './error.ts';
import { type Fields, foldKeys, isObject } from './fields.ts';
import {
  type CniVersion,
  defaultVersion,
  isAtLeast,
  isSupported,
  newestVersion,
  supportedVersions,
} from './version.ts';

/** The variables of the shim's process that matter: CNI_… and the tracing ones. */
export type Environment = ReadonlyMap<string, string>;

export type AttachmentVerb = 'ADD' | 'DEL' | 'CHECK';
export type NetworkVerb = 'GC' | 'STATUS';

interface NetworkPart {
  /** The version that the configuration is written in and that the result is printed in. */
  readonly cniVersion: CniVersion;
  /** Name of the network. */
  readonly network: string;
  /** Which plugin is called; empty when nothing says so. */
  readonly type: string;
  /** The configuration on standard input, keys in lower case, values not yet looked at. */
  readonly config: Fields;
  /** The same as text. */
  readonly configText: string;
  readonly env: Environment;
}

/** A verb about one interface of one container. */
export interface AttachmentRequest extends NetworkPart {
  readonly verb: AttachmentVerb;
  readonly containerId: string;
  readonly ifname: string;
  /** CNI_NETNS exactly as given; empty when absent, which only DEL may do. */
  readonly netns: string;
  /** The container may live in the plugin's own namespace (CNI_NETNS_OVERRIDE). */
  readonly netnsOverride: boolean;
  readonly args: CniArgs;
}

export interface NetworkRequest extends NetworkPart {
  readonly verb: NetworkVerb;
}

export interface VersionRequest {
  readonly verb: 'VERSION';
}

export type Request = AttachmentRequest | NetworkRequest | VersionRequest;

const nameRule = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
const ifnameBytesMax = 15;

interface Variable {
  readonly name: string;
  /** Verbs that cannot do without it; CNI_COMMAND is needed always. */
  readonly verbs: readonly string[];
  readonly check?: (value: string) => CniError | undefined;
}

const attachmentVerbs = ['ADD', 'DEL', 'CHECK'];
const variables: readonly Variable[] = [
  { name: 'CNI_CONTAINERID', verbs: attachmentVerbs, check: checkContainerId },
  { name: 'CNI_NETNS', verbs: ['ADD', 'CHECK'] },
  { name: 'CNI_IFNAME', verbs: attachmentVerbs, check: checkIfname },
  { name: 'CNI_PATH', verbs: ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'] },
];

function checkContainerId(value: string): CniError | undefined {
  if (nameRule.test(value)) return undefined;
  return new CniError(cniCode.invalidEnvironment, 'invalid characters in containerID', value);
}

function checkIfname(value: string): CniError | undefined {
  const refuse = (message: string, details = value) =>
    new CniError(cniCode.invalidEnvironment, `CNI_IFNAME: ${message}`, details);
  if (Buffer.byteLength(value) > ifnameBytesMax) {
    return refuse(
      'interface name is too long',
      `interface name should be less than ${ifnameBytesMax + 1} characters`,
    );
  }
  if (value === '.' || value === '..') return refuse('interface name is . or ..');
  if (/[/:\s\u0085]/u.test(value)) return refuse('interface name contains / or : or whitespace characters');
  return undefined;
}

/**
 * Reads one call of the plugin, deciding in the order of the Go library's skel package (which runtimes and
 * their tests know): variables, all that are missing at once; JSON; network name; verb; version.
 * A refusal comes back as a value.
 */
export function parseRequest(env: Environment, stdin: Uint8Array): Request | CniError {
  const verb = env.get('CNI_COMMAND') ?? '';
  const refused = checkVariables(env, verb);
  if (refused !== undefined) return refused;
  if (verb === 'VERSION') return { verb };
  const network = parseNetwork(stdin, verb, env);
  if (network instanceof CniError) return network;
  if (verb === 'GC' || verb === 'STATUS') return { verb, ...network };
  return parseAttachment(verb as AttachmentVerb, env, network);
}

function checkVariables(env: Environment, verb: string): CniError | undefined {
  const missing = verb === '' ? ['CNI_COMMAND'] : [];
  for (const { name, verbs, check } of variables) {
    if (!verbs.includes(verb)) continue;
    const value = env.get(name) ?? '';
    if (value === '') missing.push(name);
    else {
      const refused = check?.(value);
      if (refused !== undefined) return refused;
    }
  }
  if (missing.length === 0) return undefined;
  return new CniError(cniCode.invalidEnvironment, `required env variables [${missing.join(',')}] missing`);
}

function parseNetwork(stdin: Uint8Array, verb: string, env: Environment): NetworkPart | CniError {
  const configText = decoder.decode(stdin);
  const config = decodeConfig(configText);
  if (config instanceof CniError) return config;
  const network = textOf(config, 'name', '');
  if (network instanceof CniError) return network;
  if (network === '') return new CniError(cniCode.invalidConfig, 'missing network name');
  if (!nameRule.test(network)) {
    return new CniError(cniCode.invalidConfig, 'invalid characters found in network name', network);
  }
  const cniVersion = checkVersion(config, verb);
  if (cniVersion instanceof CniError) return cniVersion;
  const type = calledType(config, env);
  return type instanceof CniError ? type : { cniVersion, network, type, config, configText, env };
}

/**
 * `type` names the plugin, except where another one calls us for addresses: then it is that other one, and only the
 * name of our program, which the shim sends, says what is meant.
 */
function calledType(config: Fields, env: Environment): string | CniError {
  const type = textOf(config, 'type', '');
  const called = env.get('FAIRLEAD_PLUGIN') ?? '';
  return called === ipamPlugin || type === '' ? called : type;
}

/** The one plugin of ours that others call. */
export const ipamPlugin = 'host-local';

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** Go's decoder stops at 10,000; whatever walks a value recursively must come back alive. */
const depthMax = 500;

/** Whether brackets stand in brackets deeper than anybody writes. Those in strings do not count. */
function isTooDeep(text: string): boolean {
  if (countBrackets(text) <= depthMax) return false;
  let depth = 0;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[{]|[\]}]/g)) {
    if (token === '[' || token === '{') depth += 1;
    else if (token === ']' || token === '}') depth -= 1;
    if (depth > depthMax) return true;
  }
  return false;
}

/** Opening ones, wherever they stand: so deep it is at most. */
function countBrackets(text: string): number {
  let count = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0x5b || code === 0x7b) count += 1;
  }
  return count;
}

/** The pods of a network come with the same text, unless the runtime has added to it what is one pod's alone. */
const knownConfigs = new Map<string, Fields>();
const knownConfigsMax = 64;
const knownConfigChars = 16 << 10;

function decodeConfig(text: string): Fields | CniError {
  const known = knownConfigs.get(text);
  if (known !== undefined) return known;
  const config = decodeText(text);
  if (config instanceof CniError || config.has('runtimeconfig') || config.has('prevresult')) return config;
  if (text.length > knownConfigChars) return config;
  if (knownConfigs.size === knownConfigsMax) knownConfigs.clear();
  knownConfigs.set(text, config);
  return config;
}

function decodeText(text: string): Fields | CniError {
  if (isTooDeep(text)) return undecodable(`nested more than ${depthMax} levels deep`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return undecodable((error as Error).message);
  }
  // null decodes into nothing in Go, and then lacks a name.
  if (value === null) return new Map();
  return isObject(value) ? foldKeys(value) : undecodable(`must be an object, not ${JSON.stringify(value)}`);
}

function undecodable(why: string): CniError {
  return new CniError(cniCode.decodingFailure, `error unmarshall network config: ${why}`);
}

function textOf(config: Fields, key: string, absent: string): string | CniError {
  const value = config.get(key.toLowerCase());
  if (value === undefined || value === '') return absent;
  return typeof value === 'string'
    ? value
    : undecodable(`${key}: must be text, not ${JSON.stringify(value)}`);
}

const verbFloors: ReadonlyMap<string, CniVersion> = new Map([
  ['ADD', '0.1.0'],
  ['DEL', '0.1.0'],
  ['CHECK', '0.4.0'],
  ['GC', '1.1.0'],
  ['STATUS', '1.1.0'],
]);

function checkVersion(config: Fields, verb: string): CniVersion | CniError {
  const floor = verbFloors.get(verb);
  if (floor === undefined) return new CniError(cniCode.invalidEnvironment, `unknown CNI_COMMAND: ${verb}`);
  const version = textOf(config, 'cniVersion', defaultVersion);
  if (version instanceof CniError) return version;
  if (floor !== defaultVersion) {
    const allowed = isAtLeast(version, floor);
    if (allowed === undefined) {
      return new CniError(cniCode.decodingFailure, `failed to parse version ${JSON.stringify(version)}`);
    }
    if (!allowed) return new CniError(cniCode.incompatibleVersion, `config version does not allow ${verb}`);
    if (isAtLeast(newestVersion, version) !== true) {
      return new CniError(cniCode.incompatibleVersion, `plugin version does not allow ${verb}`);
    }
  }
  return isSupported(version) ? version : incompatible(version);
}

function incompatible(version: string): CniError {
  const ours = supportedVersions.map((one) => JSON.stringify(one)).join(' ');
  return new CniError(
    cniCode.incompatibleVersion,
    'incompatible CNI versions',
    `config is ${JSON.stringify(version)}, plugin supports [${ours}]`,
  );
}

/** Types that take none of CNI_ARGS: what is in them is for other plugins of the chain. */
const withoutArgs: readonly string[] = ['portmap', 'bandwidth', 'firewall', 'loopback'];

function parseAttachment(
  verb: AttachmentVerb,
  env: Environment,
  network: NetworkPart,
): AttachmentRequest | CniError {
  // DEL undoes what is recorded: nothing in CNI_ARGS can make it fail.
  const isRead = verb !== 'DEL' && !withoutArgs.includes(network.type);
  const args = isRead ? parseCniArgs(env.get('CNI_ARGS') ?? '') : {};
  if (args instanceof CniError) return args;
  const override = env.get('CNI_NETNS_OVERRIDE') ?? '';
  return {
    verb,
    ...network,
    containerId: env.get('CNI_CONTAINERID') ?? '',
    ifname: env.get('CNI_IFNAME') ?? '',
    netns: env.get('CNI_NETNS') ?? '',
    netnsOverride: override === '1' || override.toUpperCase() === 'TRUE',
    args,
  };
}
