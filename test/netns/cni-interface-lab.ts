import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import type { ExecutionContext } from 'ava';
import { parseCniArgs } from '../../cni/args.ts';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import type { IpamResult } from '../../cni/ipam-result.ts';
import type { Planned, PluginType } from '../../cni/plugin-type.ts';
import type { Ip } from '../../core/address.ts';
import type { AttachmentRow } from '../../kernel/attachment.ts';
import { AttachmentTable } from '../../kernel/attachment-table.ts';
import { BridgePortTable } from '../../kernel/bridge-port.ts';
import { RouteTable } from '../../kernel/route.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import { openSpace, type Space } from './kernel-space.ts';

/*
 *   outside 192.0.2.9, 2001:db8::9 ── wire ── 192.0.2.1, 2001:db8::1 node ─┬─ pod
 *                                                                         └─ pod …
 *
 * What a plugin type plans for each pod is written into the kernel table by table; a bridge is there already.
 */
export interface InterfaceLab {
  readonly node: Space;
  readonly outside: Space;
  readonly table: AttachmentTable;
  /** ADD of a container with these addresses, given as [address, gateway]. */
  add(config: object, ips: readonly (readonly [string, string?])[], args?: string): Promise<LabPod>;
  /** Writes the ways to a pod again. */
  route(planned: Planned): Promise<void>;
  /** A parameter of the node. */
  sysctl(key: string): Promise<string | undefined>;
}

export interface LabPod {
  readonly space: Space;
  readonly planned: Planned;
  readonly row: AttachmentRow;
  /** Until its rows were in the kernel. */
  readonly writeMs: number;
}

export function openInterfaceLab(t: ExecutionContext, type: PluginType): InterfaceLab {
  const [node, outside] = [openSpace(t), openSpace(t)];
  node.ip(`
    link set lo up
    link add wire type veth peer name wire netns ${outside.name}
    link set wire up
    address add 192.0.2.1/24 dev wire
    address add 2001:db8::1/64 dev wire nodad`);
  outside.ip(`
    link set wire up
    address add 192.0.2.9/24 dev wire
    address add 2001:db8::9/64 dev wire nodad
    route add default via 192.0.2.1
    route add default via 2001:db8::1`);
  const table = new AttachmentTable({
    namespaceFd: node.fd,
    onReapFailure: (error) => t.fail(error.message),
  });
  t.teardown(async () => {
    await table.flush();
    table[Symbol.dispose]();
  });
  let count = 0;
  return {
    node,
    outside,
    table,
    async add(config, ips, args = '') {
      count += 1;
      const space = openSpace(t);
      space.ip('link set lo up');
      const id = { network: 'net', containerId: `c${count}-${space.name}`, ifname: 'eth0' };
      const planned = plan(type, { ...config, name: 'net' }, { id, sandbox: space.path, ips, args });
      const row = planned.rows.attachment;
      if (row === undefined) throw new Error('no pair');
      const beganMs = performance.now();
      await write(node, table, planned, space.fd);
      return { space, planned, row, writeMs: performance.now() - beganMs };
    },
    async route({ rows: { routes } }) {
      await write(node, table, { rows: { routes }, result: noResult }, -1);
    },
    async sysctl(key) {
      return (await new SysctlTable({ keys: [key], namespaceFd: node.fd }).read()).get(key);
    },
  };
}

const noResult: Planned['result'] = {
  interfaces: [],
  ips: [],
  routes: [],
  dns: { nameservers: [], search: [], options: [] },
};

interface LabCall {
  readonly id: { network: string; containerId: string; ifname: string };
  readonly sandbox: string;
  readonly ips: readonly (readonly [string, string?])[];
  readonly args: string;
}

function plan(type: PluginType, config: object, { id, sandbox, ips, args: text }: LabCall): Planned {
  const args = orThrow(parseCniArgs(text));
  const fields = foldKeys(config as Record<string, unknown>);
  const parsed = orThrow(type.parse(fields, { cniVersion: '1.0.0', args, configText: '' }));
  if (parsed.kind !== 'interface') throw new Error('makes no interface');
  const ipam: IpamResult = {
    ips: ips.map(([address, gateway]) => ({ address: address as never, gateway: gateway as Ip | undefined })),
    routes: [],
    dns: { nameservers: [], search: [], options: [] },
  };
  return orThrow(orThrow(orThrow(parsed.network(undefined)).plan({ id, sandbox, args, ipam })).rest());
}

function orThrow<T>(value: T | CniError): T {
  if (value instanceof CniError) throw value;
  return value;
}

async function write(
  { socket, fd }: Space,
  table: AttachmentTable,
  { rows }: Planned,
  namespaceFd: number,
): Promise<void> {
  const { attachment, ports = [], routes = [], sysctls = [] } = rows;
  const create = <V>(wanted: readonly V[], key: (row: V) => string) =>
    wanted.map((row) => ({ kind: 'create' as const, key: key(row), wanted: row }));
  const pod = attachment?.pod && { ...attachment.pod, namespaceFd };
  const pairs = attachment === undefined ? [] : [{ ...attachment, pod }];
  const keys = sysctls.map(({ key }) => key);
  const failures = [
    ...(await table.write(create(pairs, ({ hostName }) => hostName))),
    ...(await new BridgePortTable({ socket }).write(create(ports, ({ port }) => port))),
    ...(await new RouteTable({ socket }).write(create(routes, ({ destination }) => destination))),
    ...(await new SysctlTable({ keys, namespaceFd: fd }).write(
      sysctls.map(({ key, value }) => ({ kind: 'create', key, wanted: value })),
    )),
  ];
  for (const { error } of failures) throw error;
}

const server = `require('node:net').createServer((s) => s.end(s.remoteAddress.replace('::ffff:', '')))
  .listen(80, '::', () => console.log('listening'))`;

/** A TCP server on port 80 that answers with the address of whoever connects. */
export async function listen(t: ExecutionContext, { path }: Space): Promise<void> {
  const child = spawn('/usr/bin/nsenter', [`--net=${path}`, process.execPath, '-e', server], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
}

const client = `require('node:net').connect(80, process.argv[1]).on('error', ({ code }) => {
  console.log(code);
  process.exit();
}).on('data', (data) => process.stdout.write(data));
// Whoever was held up itself takes what has come meanwhile before it gives up.
const giveUp = () => setImmediate(() => setImmediate(() => { console.log('silence'); process.exit(); }));
setTimeout(giveUp, 2500).unref();`;

/** What the server at `ip` sees as the address of a client there; "silence" where no answer comes. */
export function connect({ path }: Space, ip: string): string {
  const args = [`--net=${path}`, process.execPath, '-e', client, ip];
  return spawnSync('/usr/bin/nsenter', args, { encoding: 'utf8' }).stdout.trim();
}
