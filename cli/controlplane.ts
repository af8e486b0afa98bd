import { openSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { pino } from 'pino';
import { type Cidr, families, familyOf, ipToBytes, parseIp } from '../core/address.ts';
import { native } from '../native/index.ts';
import { cidrList, logLevelOption, wholeNumber } from './options.ts';
import { untilStopped } from './signals.ts';

/** Where the API is served: `127.0.0.1:6443`, `[::]:6443`, and in another namespace `…@/proc/1/ns/net`. */
interface Listen {
  readonly host: string;
  readonly port: number;
  readonly namespacePath?: string;
}

const LISTEN_BACKLOG = 511;
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;

export function parseListen(text: string): Listen {
  const match = /^(?:\[([^\]]+)\]|([^:@]+)):(\d+)(?:@(.+))?$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? '';
  if (match === null || parseIp(host) === undefined) {
    throw new InvalidArgumentError(
      `"${text}" is not an address and port such as 127.0.0.1:6443 or [::]:6443.`,
    );
  }
  const port = wholeNumber(0, 65535)(match[3] ?? '');
  return { host, port, ...(match[4] === undefined ? {} : { namespacePath: match[4] }) };
}

export function controlPlaneCommand(): Command {
  return new Command('controlplane')
    .description('Run the control plane: a Kubernetes API server on SQLite, with its controllers')
    .option('--state-dir <path>', 'database, token and kubeconfig', '/var/lib/fairlead/controlplane')
    .option(
      '--listen <address>',
      'serve here; may be given again (default: 127.0.0.1:6443)',
      collectListen,
      [],
    )
    .option(
      '--cluster-cidr <cidrs>',
      "the pods' networks",
      cidrList,
      cidrList('10.244.0.0/16,fd00:10:244::/56'),
    )
    .option(
      '--service-cidr <cidrs>',
      "the services' networks",
      cidrList,
      cidrList('10.96.0.0/16,fd00:10:96::/112'),
    )
    .addOption(logLevelOption())
    .action((options) => run(options));
}

function collectListen(text: string, listens: Listen[]): Listen[] {
  return [...listens, parseListen(text)];
}

interface ControlPlaneOptions {
  readonly stateDir: string;
  readonly listen: readonly Listen[];
  readonly clusterCidr: Cidr[];
  readonly serviceCidr: Cidr[];
  readonly logLevel: string;
}

async function run({
  stateDir,
  listen,
  clusterCidr,
  serviceCidr,
  logLevel,
}: ControlPlaneOptions): Promise<void> {
  const { startControlPlane } = await import('../controlplane/main.ts');
  const log = pino({ level: logLevel, base: { part: 'controlplane' } });
  const listeners = (listen.length > 0 ? listen : [parseListen('127.0.0.1:6443')]).map(openListener);
  await using controlPlane = await startControlPlane({
    stateDir,
    listeners,
    clusterCidrs: clusterCidr,
    serviceCidrs: serviceCidr,
    log,
  });
  log.info({ urls: controlPlane.urls, kubeconfig: controlPlane.kubeconfigPath }, 'serving');
  await untilStopped();
}

/** A listener in another network namespace is opened there and handed over as a descriptor. */
function openListener({
  host,
  port,
  namespacePath,
}: Listen): { host: string; port: number } | { fd: number } {
  if (namespacePath === undefined) return { host, port };
  const ip = parseIp(host);
  if (ip === undefined) throw new TypeError(`host: ${host}`);
  const family = familyOf(ip);
  const namespaceFd = openSync(namespacePath, 'r');
  try {
    const fd = native.openSocket(namespaceFd, family === families[0] ? AF_INET : AF_INET6, SOCK_STREAM, 0, 0);
    try {
      native.setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
      native.bind(fd, encodeSocketAddress(ipToBytes(ip), port), LISTEN_BACKLOG);
      return { fd };
    } catch (error) {
      native.close(fd);
      throw error;
    }
  } finally {
    native.close(namespaceFd);
  }
}

/** struct sockaddr_in or sockaddr_in6, by the length of the address. */
function encodeSocketAddress(ip: Uint8Array, port: number): Uint8Array {
  const isV4 = ip.length === 4;
  const bytes = Buffer.alloc(isV4 ? 16 : 28);
  bytes.writeUInt16LE(isV4 ? AF_INET : AF_INET6, 0);
  bytes.writeUInt16BE(port, 2);
  bytes.set(ip, isV4 ? 4 : 8);
  return bytes;
}
