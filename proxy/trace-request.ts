import { fstatSync, statSync } from 'node:fs';
import { familyOf, type Ip, parseIp } from '../core/address.ts';
import { InputError, type Problem } from '../core/errors.ts';
import { KernelError } from '../kernel/errors.ts';
import { LinkIndex } from '../kernel/linkindex.ts';
import { decodeAddress, encodeAddressDump } from '../kernel/netlink/route/address.ts';
import { decodeRoute, encodeRouteLookup, type Route } from '../kernel/netlink/route/route.ts';
import { AF_UNSPEC, RTM_GETADDR, RTM_GETROUTE } from '../kernel/netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import type { Backend } from './backend.ts';
import { DEVICE } from './ipvs/device.ts';
import { type Protocol, parseProtocol } from './protocol.ts';
import type { ServiceProxy } from './proxy.ts';
import { type Trace, type TraceFacts, traceFrontend } from './trace.ts';

/** What a process that runs a proxy is asked, in its own network namespace. */
export interface TraceRequest {
  /** `node`: the address that this node would take. */
  readonly source: Ip | 'node';
  readonly destination: Ip;
  readonly port: number;
  readonly protocol: Protocol;
}

export interface TraceAnswer {
  readonly backend: Backend['name'];
  readonly pid: number;
  /** The inode of the network namespace of the proxy, in decimal. */
  readonly namespace: string;
  /** The source is an address of this node. */
  readonly isSourceHere: boolean;
  readonly trace: Trace;
}

const RTN_LOCAL = 2;

/** As in the query of the status socket's `/trace`. Throws InputError. */
export function parseTraceQuery(query: URLSearchParams): TraceRequest {
  const problems: Problem[] = [];
  const take = <T>(name: string, parse: (text: string) => T | undefined, what: string): T | undefined => {
    const value = parse(query.get(name) ?? '');
    if (value === undefined) problems.push({ path: name, message: `"${query.get(name)}" is not ${what}` });
    return value;
  };
  const source = take('source', (text) => (text === 'node' ? text : parseIp(text)), 'an address, nor "node"');
  const destination = take('destination', parseIp, 'an address');
  const port = take('port', parsePort, 'a port from 1 to 65535');
  const protocol = take('protocol', (text) => parseProtocol(text.toUpperCase()), 'tcp, udp or sctp');
  if (source && destination && source !== 'node' && familyOf(source) !== familyOf(destination))
    problems.push({ path: 'source', message: `${source} and ${destination} are not of one family` });
  if (source && destination && port && protocol && problems.length === 0)
    return { source, destination, port, protocol };
  throw new InputError('trace', problems);
}

function parsePort(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port > 0 && port < 65_536 ? port : undefined;
}

/**
 * Decides by what this proxy goes by at the moment. `namespaceFd` is the proxy's network namespace, if it is not that of
 * the process. Throws InputError and KernelError.
 */
export async function answerTrace(
  proxy: ServiceProxy,
  request: TraceRequest,
  namespaceFd?: number,
): Promise<TraceAnswer> {
  const { facts, policy, views } = proxy;
  if (facts === undefined) throw notReady();
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
  const { localIps, heldIps } = await readLocalIps(socket);
  const { destination, port, protocol } = request;
  const source = request.source === 'node' ? await ownSource(socket, destination) : request.source;
  const isSourceHere = localIps.has(source);
  const byInterface = ['bridge', 'interfacePrefix'].includes(policy.detectLocal.mode) && !isSourceHere;
  const interfaceName = byInterface ? await interfaceTowards(socket, source) : undefined;
  const packet = { source, destination, port, protocol, ...(interfaceName && { interfaceName }) };
  const backend = proxy.status().backend;
  const trace = traceFrontend(views, policy, { ...facts, backend, localIps, heldIps }, packet);
  return { backend, pid: process.pid, namespace: inodeOf(namespaceFd), isSourceHere, trace };
}

function inodeOf(namespaceFd: number | undefined): string {
  const bigint = true;
  const { ino } =
    namespaceFd === undefined
      ? statSync('/proc/self/ns/net', { bigint })
      : fstatSync(namespaceFd, { bigint });
  return ino.toString();
}

/** What stands in the place of an answer while nothing has been written. */
export function notReady(): InputError {
  const message = 'has not synced yet; try again when "fairlead status" says ready';
  return new InputError('trace', [{ path: 'service proxy', message }]);
}

/** The node's addresses, and those among them that the mode ipvs holds. */
async function readLocalIps(socket: NetlinkSocket): Promise<Pick<TraceFacts, 'localIps' | 'heldIps'>> {
  const payload = encodeAddressDump(AF_UNSPEC);
  const messages = await socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation: 'RTM_GETADDR' });
  const addresses = messages.map((message) => decodeAddress(message.payload));
  const device = (await LinkIndex.lookUp(socket, [DEVICE])).named(DEVICE);
  const held = addresses.filter(({ index }) => index === device?.index);
  return { localIps: new Set(addresses.map(({ ip }) => ip)), heldIps: new Set(held.map(({ ip }) => ip)) };
}

async function lookUpRoute(socket: NetlinkSocket, ip: Ip): Promise<Route | undefined> {
  const payload = encodeRouteLookup(ip);
  const operation = `RTM_GETROUTE ${ip}`;
  try {
    const [answer] = await socket.request({ type: RTM_GETROUTE, flags: 0, payload, operation });
    return answer && decodeRoute(answer.payload);
  } catch (error) {
    if (error instanceof KernelError) return undefined; // no route
    throw error;
  }
}

async function ownSource(socket: NetlinkSocket, destination: Ip): Promise<Ip> {
  const source = (await lookUpRoute(socket, destination))?.source;
  if (source !== undefined) return source;
  const message = `this node has no route to ${destination}; name one of its addresses in place of "node"`;
  throw new InputError('trace', [{ path: 'source', message }]);
}

/** Packets of a source come in where packets to it go out. */
async function interfaceTowards(socket: NetlinkSocket, source: Ip): Promise<string | undefined> {
  const route = await lookUpRoute(socket, source);
  if (route === undefined || route.type === RTN_LOCAL) return undefined;
  return (await LinkIndex.read(socket)).at(route.index)?.name;
}
