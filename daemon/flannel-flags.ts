import { type Cidr, type Family, familyOf, type Ip, parseCidr, parseIp } from '../core/address.ts';
import { InputError, type Problem } from '../core/errors.ts';
import { type FlannelFlag, flannelFlags, flannelVariable } from './flannel-flag-table.ts';
import type { PerFamily } from './lease.ts';
import { parseAnnotationPrefix } from './node-record.ts';
import type { UnderlaySelector } from './underlay.ts';

export interface FlannelEtcd {
  readonly kind: 'etcd';
  readonly endpoints: readonly string[];
  /** Without a slash at the end. */
  readonly prefix: string;
  /** Paths of PEM files. */
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
  readonly username?: string;
  readonly password?: string;
  readonly renewMarginSeconds: number;
}

export interface FlannelKubernetes {
  readonly kind: 'kubernetes';
  readonly apiUrl?: string;
  readonly kubeconfig?: string;
  readonly annotationPrefix: string;
  readonly setNetworkUnavailable: boolean;
  readonly netConfigPath: string;
  /** Else the node is that of the pod. */
  readonly nodeName?: string;
  readonly pod?: { readonly name: string; readonly namespace: string };
}

/** What a command line of flanneld's asks for, and one of `fairlead node` may ask for. */
export interface SharedOptions {
  readonly underlay: UnderlaySelector;
  readonly randomPorts: boolean;
  readonly forwardRules: boolean;
  readonly nonMasqueradeCidrs: readonly Cidr[];
  readonly blackholeRoute: boolean;
}

/** What a command line of flanneld's asks for. */
export interface FlannelOptions extends SharedOptions {
  readonly store: FlannelEtcd | FlannelKubernetes;
  readonly subnetFile: string;
  readonly masquerade: boolean;
  /** undefined: no health server. */
  readonly health?: { readonly ip: Ip; readonly port: number };
  readonly wireguardKeyFile?: string;
  /** klog's: 0 and up. */
  readonly verbosity: number;
  readonly version: boolean;
  /** What was said in vain, one sentence each. */
  readonly warnings: readonly string[];
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads flanneld's command line (without the program's name) and environment. A flag wins over its variable;
 * an empty variable counts as absent. Throws {@link InputError} with every problem.
 */
export function parseFlannelFlags(args: readonly string[], environment: Environment): FlannelOptions {
  const problems: Problem[] = [];
  const given = readArguments(args, problems);
  addVariables(given, flannelFlags, environment);
  const values = new FlagValues(given, problems);
  const options = readOptions(values, environment);
  if (problems.length > 0) throw new InputError('options', problems);
  return options;
}

/** What `fairlead node` has of flanneld's flags; what is not said has flanneld's default. */
export interface NodeFlags extends SharedOptions {
  /** undefined: no endpoints are named. */
  readonly etcd?: FlannelEtcd;
  readonly annotationPrefix: string;
  readonly setNetworkUnavailable: boolean;
  /** undefined: none is named. */
  readonly subnetFile?: string;
}

/**
 * Reads the flags that `fairlead node` shares with flanneld: `texts` by name, as given on its command line, then
 * flanneld's variables. Throws {@link InputError} with every problem.
 */
export function parseNodeFlags(
  texts: ReadonlyMap<string, readonly string[]>,
  environment: Environment,
): NodeFlags {
  const problems: Problem[] = [];
  const given = new Map([...texts].map(([name, of]) => [name, { path: `--${name}`, texts: of }] as const));
  addVariables(
    given,
    flannelFlags.filter(({ shared }) => shared),
    environment,
  );
  const values = new FlagValues(given, problems);
  const etcd = readEtcd(values);
  const options = {
    ...readShared(values),
    ...(values.has('etcd-endpoints') ? { etcd } : {}),
    annotationPrefix: readAnnotationPrefix(values),
    setNetworkUnavailable: values.boolean('set-node-network-unavailable'),
    ...(values.has('subnet-file') ? { subnetFile: values.text('subnet-file') } : {}),
  };
  if (problems.length > 0) throw new InputError('options', problems);
  return options;
}

function addVariables(
  given: Map<string, Given>,
  flags: readonly FlannelFlag[],
  environment: Environment,
): void {
  for (const { name } of flags) {
    const path = flannelVariable(name);
    const text = environment[path];
    if (text !== undefined && text !== '' && !given.has(name)) given.set(name, { path, texts: [text] });
  }
}

interface Given {
  /** Where it was said: `--iface` or FLANNELD_IFACE. */
  readonly path: string;
  readonly texts: readonly string[];
}

/** As Go's package flag: one hyphen or two, the value behind "=" or, except for booleans, in the next word. */
function readArguments(args: readonly string[], problems: Problem[]): Map<string, Given> {
  const given = new Map<string, Given>();
  const words = [...args];
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    const [, name, value] = /^--?([^=-][^=]*)(?:=(.*))?$/s.exec(word) ?? [];
    const flag = flannelFlags.find((known) => known.name === name);
    if (flag === undefined) {
      problems.push({ path: word, message: `is not a flag of flanneld's` });
      if (name === undefined) break; // what follows cannot be told apart any more
      continue;
    }
    const path = `--${flag.name}`;
    const text = value ?? (flag.kind === 'boolean' ? 'true' : words.shift());
    if (text === undefined) problems.push({ path, message: 'has no value' });
    else given.set(flag.name, { path, texts: [...(given.get(flag.name)?.texts ?? []), text] });
  }
  return given;
}

/** Values by flag. What is wrong is added to the problems, and reads as the default. */
class FlagValues {
  readonly #given: ReadonlyMap<string, Given>;
  readonly #problems: Problem[];

  constructor(given: ReadonlyMap<string, Given>, problems: Problem[]) {
    this.#given = given;
    this.#problems = problems;
  }

  problem(name: string, message: string): undefined {
    this.#problems.push({ path: this.#given.get(name)?.path ?? `--${name}`, message });
    return undefined;
  }

  has(name: string): boolean {
    return this.#given.has(name);
  }

  texts(name: string): readonly string[] {
    return this.#given.get(name)?.texts ?? [];
  }

  /** Of a flag given twice the last counts, as in Go. */
  text(name: string): string {
    return this.texts(name).at(-1) ?? flagOf(name).absent;
  }

  /** undefined for the empty text. */
  optional(name: string): string | undefined {
    return this.text(name) || undefined;
  }

  boolean(name: string): boolean {
    const text = this.text(name);
    if (/^(1|t|T|TRUE|true|True)$/.test(text)) return true;
    if (!/^(0|f|F|FALSE|false|False)$/.test(text)) {
      this.problem(name, `is not true or false: ${JSON.stringify(text)}`);
    }
    return false;
  }

  number(name: string, min: number, max: number): number {
    const text = this.text(name);
    const value = /^\+?(0|[1-9]\d*|0x[\da-f]+)$/i.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    this.problem(name, `is not a whole number from ${min} to ${max}: ${JSON.stringify(text)}`);
    return Number(flagOf(name).absent);
  }

  ip(name: string, family?: Family): Ip | undefined {
    const text = this.text(name);
    if (text === '') return undefined;
    const ip = parseIp(text);
    if (ip !== undefined && (family === undefined || familyOf(ip) === family)) return ip;
    const kind = family === undefined ? 'IP' : `IPv${family}`;
    return this.problem(name, `is not an ${kind} address: ${JSON.stringify(text)}`);
  }

  cidrs(name: string): Cidr[] {
    const texts = this.text(name).split(',');
    return texts.flatMap((text) => {
      if (text.trim() === '') return [];
      const cidr = parseCidr(text.trim());
      if (cidr !== undefined) return [cidr];
      this.problem(name, `is not a network such as 192.0.2.0/24 (host bits zero): ${JSON.stringify(text)}`);
      return [];
    });
  }

  /** Go's syntax and JavaScript's agree in what names and addresses need; "(?i)" is Go's word for a flag. */
  patterns(name: string): RegExp[] {
    return this.texts(name).flatMap((text) => {
      const [, ignoreCase, source = ''] = /^(\(\?i\))?(.*)$/s.exec(text) ?? [];
      try {
        return [new RegExp(source, ignoreCase === undefined ? '' : 'i')];
      } catch (error) {
        this.problem(
          name,
          `is not a regular expression: ${JSON.stringify(text)}: ${(error as Error).message}`,
        );
        return [];
      }
    });
  }
}

function flagOf(name: string): FlannelFlag {
  const found = flannelFlags.find((flag) => flag.name === name);
  if (found === undefined) throw new Error(`flannel has no flag ${name}`);
  return found;
}

function readOptions(values: FlagValues, environment: Environment): FlannelOptions {
  const { WIREGUARD_KEY_FILE: wireguardKeyFile } = environment;
  const port = values.number('healthz-port', 0, 65535);
  const ip = values.ip('healthz-ip');
  // What is wrong is wrong without effect as well.
  const [etcd, kubernetes] = [readEtcd(values), readKubernetes(values, environment)];
  values.number('iptables-resync', 1, 86_400);
  return {
    store: values.boolean('kube-subnet-mgr') ? kubernetes : etcd,
    ...readShared(values),
    subnetFile: values.text('subnet-file'),
    masquerade: values.boolean('ip-masq'),
    ...(port > 0 && ip !== undefined ? { health: { ip, port } } : {}),
    ...(wireguardKeyFile ? { wireguardKeyFile } : {}),
    verbosity: values.number('v', 0, 100),
    version: values.boolean('version'),
    warnings: flannelFlags
      .filter((flag) => flag.idle && values.has(flag.name))
      .map(({ name }) => `--${name} has no effect`),
  };
}

function readShared(values: FlagValues): SharedOptions {
  return {
    underlay: readUnderlay(values),
    randomPorts: !values.boolean('ip-masq-fully-random-disable'),
    forwardRules: values.boolean('iptables-forward-rules'),
    nonMasqueradeCidrs: values.cidrs('non-masquerade-cidrs'),
    blackholeRoute: values.boolean('ip-blackhole-route'),
  };
}

function readUnderlay(values: FlagValues): UnderlaySelector {
  const [v4, v6] = [values.ip('public-ip', 4), values.ip('public-ipv6', 6)];
  const publicIps: PerFamily<Ip> = { ...(v4 && { 4: v4 }), ...(v6 && { 6: v6 }) };
  const canReach = values.ip('iface-can-reach');
  return {
    interfaces: values.texts('iface'),
    patterns: values.patterns('iface-regex'),
    ...(canReach === undefined ? {} : { canReach }),
    publicIps,
  };
}

function readEtcd(values: FlagValues): FlannelEtcd {
  const files = {
    caFile: values.optional('etcd-cafile'),
    certFile: values.optional('etcd-certfile'),
    keyFile: values.optional('etcd-keyfile'),
  };
  if (files.certFile === undefined && files.keyFile !== undefined)
    values.problem('etcd-keyfile', `is given without --etcd-certfile: ${JSON.stringify(files.keyFile)}`);
  if (files.keyFile === undefined && files.certFile !== undefined)
    values.problem('etcd-certfile', `is given without --etcd-keyfile: ${JSON.stringify(files.certFile)}`);
  const [username, password] = [values.optional('etcd-username'), values.optional('etcd-password')];
  if (username === undefined && password !== undefined)
    values.problem('etcd-password', 'is given without --etcd-username');
  const prefix = values.text('etcd-prefix').replace(/\/+$/, '');
  if (!/^\/[^\s]+$/.test(prefix))
    values.problem('etcd-prefix', `does not begin with a slash: ${JSON.stringify(prefix)}`);
  return {
    kind: 'etcd',
    endpoints: readEndpoints(values, files.caFile !== undefined || files.certFile !== undefined),
    prefix,
    ...withoutUndefined(files),
    ...withoutUndefined({ username, password }),
    renewMarginSeconds: 60 * values.number('subnet-lease-renew-margin', 1, 1439),
  };
}

/** flannel's client takes "host:port", too. */
function readEndpoints(values: FlagValues, isSecure: boolean): string[] {
  const texts = values.text('etcd-endpoints').split(',');
  return texts.flatMap((text) => {
    const trimmed = text.trim();
    const url = trimmed.includes('://') ? trimmed : `${isSecure ? 'https' : 'http'}://${trimmed}`;
    if (URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)) return [url.replace(/\/+$/, '')];
    values.problem('etcd-endpoints', `is not a URL such as http://192.0.2.1:2379: ${JSON.stringify(text)}`);
    return [];
  });
}

function readKubernetes(values: FlagValues, environment: Environment): FlannelKubernetes {
  const apiUrl = values.optional('kube-api-url');
  if (apiUrl !== undefined && !(URL.canParse(apiUrl) && /^https?:/.test(apiUrl)))
    values.problem('kube-api-url', `is not a URL: ${JSON.stringify(apiUrl)}`);
  const { NODE_NAME: nodeName, POD_NAME: name, POD_NAMESPACE: namespace } = environment;
  return {
    kind: 'kubernetes',
    ...withoutUndefined({ apiUrl, kubeconfig: values.optional('kubeconfig-file') }),
    annotationPrefix: readAnnotationPrefix(values),
    setNetworkUnavailable: values.boolean('set-node-network-unavailable'),
    netConfigPath: values.text('net-config-path'),
    ...(nodeName ? { nodeName } : {}),
    ...(name && namespace ? { pod: { name, namespace } } : {}),
  };
}

function readAnnotationPrefix(values: FlagValues): string {
  const prefix = parseAnnotationPrefix(values.text('kube-annotation-prefix'));
  if (typeof prefix === 'string') return prefix;
  values.problem('kube-annotation-prefix', prefix.problem);
  return '';
}

function withoutUndefined<K extends string>(
  values: Readonly<Record<K, string | undefined>>,
): { [key in K]?: string } {
  const said = Object.entries<string | undefined>(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(said) as { [key in K]?: string };
}
