import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Cidr, familyOf, networkOf, parseHostCidr } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import { refuseConfig } from '../config.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields, foldKeys, isObject } from '../fields.ts';
import { readSmallFile } from '../small-file.ts';

/** Where the node agent writes what the node has got, unless the configuration says otherwise. */
export const defaultSubnetFile = '/run/flannel/subnet.env';

/** A JSON object as the delegate gets it: its own reader gives the keys their meaning. */
type Json = Readonly<Record<string, unknown>>;

/** A configuration of type flannel. */
export interface FlannelConfig {
  readonly name: unknown;
  readonly cniVersion: unknown;
  readonly subnetFile: string;
  readonly delegate: Json;
  readonly ipam: Json;
  readonly runtimeConfig?: unknown;
  /** What the runtime says about the network as a whole (`cni.dev/…`): of GC. */
  readonly attachments: Json;
}

/** Another plugin's configuration. */
export interface Delegate {
  readonly type: string;
  readonly config: Json;
}

/** Every problem of cni.md §2.7, in the words of flannel's own plugin. */
export function parseFlannel(config: Fields): FlannelConfig | CniError {
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const objects = ['delegate', 'ipam'].map((key) => {
    reader.object(key);
    const value = config.get(key);
    return isObject(value) ? value : {};
  });
  const [delegate = {}, ipam = {}] = objects;
  const subnetFile = reader.text('subnetFile') || defaultSubnetFile;
  const refused = refuseConfig(problems) ?? checkDelegate(delegate);
  if (refused !== undefined) return refused;
  return {
    name: config.get('name'),
    cniVersion: config.get('cniversion'),
    subnetFile,
    delegate,
    ipam,
    runtimeConfig: config.get('runtimeconfig'),
    attachments: Object.fromEntries([...config].filter(([key]) => key.startsWith('cni.dev/'))),
  };
}

function checkDelegate(delegate: Json): CniError | undefined {
  if ('type' in delegate && typeof delegate.type !== 'string') {
    return refuse("'delegate' dictionary, if present, must have (string) 'type' field");
  }
  const forbidden = ['name', 'ipam'].find((key) => key in delegate);
  if (forbidden === undefined) return undefined;
  return refuse(`'delegate' dictionary must not have '${forbidden}' field, it'll be set by flannel`);
}

function refuse(message: string): CniError {
  return new CniError(cniCode.invalidConfig, message);
}

/** What flannel, or an agent in its place, tells the plugins of its node. */
export interface SubnetEnv {
  /** Of the cluster, both families. */
  readonly networks: readonly Cidr[];
  /** Of this node; of each family at most one, IPv4 first. */
  readonly subnets: readonly Cidr[];
  readonly mtuBytes: number;
  /** The agent masquerades: the plugin need not. */
  readonly ipMasq: boolean;
}

/** Reads a subnet.env. The agent may not have written it yet: what fails now may work later. */
export function readSubnetEnv(path: string): SubnetEnv | CniError {
  let text: string;
  try {
    text = readSmallFile(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return unusable(code === 'ENOENT' ? `open ${path}: no such file or directory` : (error as Error).message);
  }
  return parseSubnetEnv(text, path);
}

function unusable(why: string): CniError {
  return new CniError(
    cniCode.tryAgain,
    `failed to load flannel 'subnet.env' file: ${why}. Check the flannel pod log for this node.`,
  );
}

/** `path` is for the errors. Lines `KEY=value`; networks may be several, with commas. Of equal keys the last counts. */
export function parseSubnetEnv(text: string, path: string): SubnetEnv | CniError {
  const values = new Map<string, string>();
  for (const line of text.split('\n')) {
    const at = line.indexOf('=');
    if (at > 0) values.set(line.slice(0, at).trim(), line.slice(at + 1).trim());
  }
  const wrong: string[] = [];
  const cidrs = (keys: readonly string[], isList: boolean) =>
    keys.flatMap((key) => {
      const value = values.get(key) ?? '';
      return value === '' ? [] : (isList ? value.split(',') : [value]).map((one) => ({ key, one }));
    });
  const parse = ({ key, one }: { key: string; one: string }): Cidr[] => {
    const host = parseHostCidr(one.trim());
    const isFitting = host !== undefined && familyOf(host) === (key.includes('IPV6') ? 6 : 4);
    if (!isFitting) wrong.push(`${key}: invalid CIDR address: ${one}`);
    return isFitting ? [networkOf(host)] : [];
  };
  const networks = cidrs(networkKeys, true).flatMap(parse);
  const subnets = cidrs(subnetKeys, false).flatMap(parse);
  const mtuText = values.get('FLANNEL_MTU');
  if (mtuText !== undefined && !/^\d{1,5}$/.test(mtuText)) wrong.push(`FLANNEL_MTU: no number: ${mtuText}`);
  if (wrong.length > 0) return unusable(wrong.join('; '));
  const missing = [
    ...(networks.length === 0 ? networkKeys : []),
    ...(subnets.length === 0 ? subnetKeys : []),
    ...['FLANNEL_MTU', 'FLANNEL_IPMASQ'].filter((key) => !values.has(key)),
  ];
  if (missing.length > 0) return unusable(`${path} is missing ${missing.join(', ')}`);
  return { networks, subnets, mtuBytes: Number(mtuText), ipMasq: values.get('FLANNEL_IPMASQ') === 'true' };
}

const networkKeys = ['FLANNEL_NETWORK', 'FLANNEL_IPV6_NETWORK'];
const subnetKeys = ['FLANNEL_SUBNET', 'FLANNEL_IPV6_SUBNET'];

/**
 * The delegate's configuration: what the user gave for it, and where that says nothing what the node has got. Of
 * address management the ranges are always the node's, and the routes to the cluster come after the user's own.
 */
export function planDelegate(config: FlannelConfig, env: SubnetEnv): Delegate | CniError {
  const { name, cniVersion, runtimeConfig, ipam } = config;
  const type = (config.delegate.type as string | undefined) ?? 'bridge';
  const own = (config.ipam.routes as unknown) ?? [];
  if (!Array.isArray(own))
    return refuse(`failed to parse ipam.routes: must be a list, not ${JSON.stringify(own)}`);
  return {
    type,
    config: {
      ipMasq: !env.ipMasq,
      mtu: env.mtuBytes,
      ...(type === 'bridge' && { isGateway: true }),
      ...config.delegate,
      type,
      name,
      ...(typeof cniVersion === 'string' && cniVersion !== '' && { cniVersion }),
      ...(runtimeConfig !== undefined && { runtimeConfig }),
      ...config.attachments,
      ipam: {
        type: 'host-local',
        ...ipam,
        ranges: env.subnets.map((subnet) => [{ subnet }]),
        routes: [...own, ...env.networks.map((dst) => ({ dst }))],
      },
    },
  };
}

/** The delegate's configuration as its own reader takes it. */
export function delegateFields({ config }: Delegate): Fields {
  return foldKeys(config);
}

/** A call of another plugin in the place of one of type flannel. */
export interface DelegatedCall {
  readonly type: string;
  readonly config: Fields;
  /** The same as text, for programs. */
  readonly configText: string;
}

/**
 * What is to be called instead. The file is read each time, as the node's subnets may change while nothing else does:
 * whoever keeps what a configuration means keeps it by the text that this gives.
 */
export function delegateFlannel(config: Fields): DelegatedCall | CniError {
  const parsed = parseFlannel(config);
  if (parsed instanceof CniError) return parsed;
  const env = readSubnetEnv(parsed.subnetFile);
  if (env instanceof CniError) return env;
  const delegate = planDelegate(parsed, env);
  if (delegate instanceof CniError) return delegate;
  const configText = JSON.stringify(delegate.config);
  return { type: delegate.type, config: delegateFields(delegate), configText };
}

/** Where flannel's own plugin keeps, by container, what it told its delegate. */
const defaultScratchDir = '/var/lib/cni/flannel';

/** What flannel's own plugin told its delegate for the container; undefined where it kept nothing that can be read. */
export function readScratch(config: Fields, containerId: string): DelegatedCall | undefined {
  try {
    const configText = readSmallFile(scratchOf(config, containerId));
    const value: unknown = JSON.parse(configText);
    if (!isObject(value) || typeof value.type !== 'string') return undefined;
    return { type: value.type, config: foldKeys(value), configText };
  } catch {
    return undefined;
  }
}

function scratchOf(config: Fields, containerId: string): string {
  const dataDir = new FieldReader(config, []).text('dataDir') || defaultScratchDir;
  return join(dataDir, containerId);
}

/** Removes what flannel's own plugin kept of the container; nothing is fine too. */
export async function removeScratch(config: Fields, containerId: string): Promise<void> {
  await rm(scratchOf(config, containerId), { force: true });
}
