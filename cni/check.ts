import type { Table } from '../core/rows.ts';
import { CniError, cniCode } from './error.ts';
import { callForeign, type ForeignCall } from './foreign-ipam.ts';
import { type KindRows, type Part, type PartRows, type RowKind, rowKinds, rowsOf } from './part.ts';
import type { PartTables } from './part-tables.ts';
import type { ChainedCall, ChainedPlugin } from './plugin-type.ts';
import type { AttachmentRequest } from './request.ts';
import type { Result } from './result.ts';
import type { BridgeNeeds } from './types/bridge.ts';
import { checkInterface } from './types/check.ts';
import type { WantedRows } from './wanted.ts';

export interface CheckOptions {
  readonly tables: PartTables;
  readonly wanted: Pick<WantedRows, 'current'>;
  /** Of programs that are called. */
  readonly enter?: ForeignCall['enter'];
}

/**
 * CHECK of an interface: all that `prevResult` lists of ours, and all the rows that ADD made, are there. Throws
 * CniError.
 */
export async function checkPart(
  request: AttachmentRequest,
  namespaceFd: number,
  part: Part | undefined,
  previous: Result | undefined,
  { tables, wanted, enter }: CheckOptions,
): Promise<void> {
  if (previous === undefined) throw new CniError(cniCode.invalidConfig, 'Required prevResult missing');
  if (part === undefined || part.isLeft) throw unknownAttachment(request);
  const { attachment } = part.rows;
  if (attachment !== undefined) {
    const { ifname, netns: sandbox } = request;
    const bridge = attachment.bridge === undefined ? undefined : (part.bridge as BridgeNeeds | undefined);
    const { hostName } = attachment;
    const state = await tables.readPair({ bridge: attachment.bridge, hostName, ifname, namespaceFd });
    const problem = checkInterface({ sandbox, ifname, hostName, bridge, previous }, state);
    if (problem !== undefined) throw problem;
  }
  await checkRows(part.rows, namespaceFd, { tables, wanted });
  if (part.foreignIpam !== undefined) {
    const { type, configText } = part.foreignIpam;
    // A delegate has a configuration of its own.
    const isDelegate = request.type === 'flannel';
    const told = isDelegate ? withPrevResult(configText, request) : request.configText;
    await callForeign('CHECK', { type, env: request.env, configText: told, enter });
  }
}

function withPrevResult(configText: string, { config }: AttachmentRequest): string {
  return JSON.stringify({ ...JSON.parse(configText), prevResult: config.get('prevresult') });
}

function unknownAttachment({ type, network, containerId, ifname }: AttachmentRequest): CniError {
  const text = `plugin ${type} has made nothing for ${ifname} of ${containerId} in network ${network}`;
  return new CniError(cniCode.internal, text, containerId);
}

/** A chained plugin without a part has nothing to do for the container, or what it did is lost. Throws CniError. */
export async function checkChained(
  request: AttachmentRequest,
  plugin: ChainedPlugin,
  part: Part | undefined,
  call: ChainedCall,
  options: CheckOptions,
): Promise<void> {
  if (plugin.check !== undefined) {
    const problem = await plugin.check(call);
    if (problem !== undefined) throw problem;
    return;
  }
  if (part === undefined) {
    const planned = await plugin.plan(call);
    if (planned instanceof CniError) throw planned;
    if (rowKinds.every((kind) => rowsOf(planned.rows, kind).size === 0)) return;
  }
  await checkPart(request, call.namespaceFd, part, call.previous, options);
}

/** Every row is read and compared; the first that is not as it was made is told. */
async function checkRows(
  rows: PartRows,
  namespaceFd: number,
  { tables, wanted }: CheckOptions,
): Promise<void> {
  for (const kind of rowKinds) {
    // The pair was looked at from both sides.
    if (kind === 'attachment' || rowsOf(rows, kind).size === 0) continue;
    const table = tableOf(kind, rows, namespaceFd, tables);
    const actual = await table.read();
    for (const [key, row] of rowsOf(rows, kind)) {
      const there = actual.get(key);
      if (there === undefined) throw notThere(missingText(kind, row) ?? `${table.name} ${key}: not found`);
      // A host port of the container may lead to it by another of its networks.
      if (!table.same(wanted.current(kind, key) ?? row, there))
        throw notThere(`${table.name} ${key}: not as it was made`);
    }
  }
}

/** In the words of the reference plugin, where it has some. */
function missingText(kind: RowKind, row: unknown): string | undefined {
  if (kind !== 'firewalld') return undefined;
  const { zone, source } = row as KindRows['firewalld'];
  return `failed to find the address ${source} in ${zone} zone`;
}

function notThere(text: string): CniError {
  return new CniError(cniCode.internal, text);
}

function tableOf(
  kind: Exclude<RowKind, 'attachment'>,
  rows: PartRows,
  namespaceFd: number,
  tables: PartTables,
): Table<string, unknown> {
  const found =
    kind === 'pod'
      ? tables.pod(namespaceFd, rows.pod ?? [])
      : kind === 'sysctls'
        ? tables.sysctls((rows.sysctls ?? []).map(({ key }) => key))
        : tables.node[kind];
  return found as unknown as Table<string, unknown>;
}
