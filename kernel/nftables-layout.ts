import { isMissing } from './errors.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { hookNumbers, message, policies } from './netlink/nftables/constants.ts';
import { type EncodedLayout, noteOfMark } from './netlink/nftables/layout.ts';
import {
  type ChainState,
  decodeChain,
  decodeRule,
  decodeSet,
  decodeTable,
  setDataType,
  setFlagsOf,
  setKeyBytes,
  type TableName,
} from './netlink/nftables/messages.ts';
import { getChain, getRules, getSets, getTable } from './netlink/nftables/requests.ts';
import type { NftChain, NftLayout, NftSet } from './netlink/nftables/spec.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/**
 * Whether the kernel has the layout as we made it: our mark on the table (of the layout that it was made by, where chains
 * were added since), every chain, every set, and in each chain the same rules with the same comments. What somebody else
 * added beside them is not looked at.
 */
export async function layoutInPlace(
  socket: NetlinkSocket,
  layout: NftLayout,
  encoded: Pick<EncodedLayout, 'mark' | 'rules'>,
): Promise<boolean> {
  try {
    const [table] = await socket.request(getTable(layout));
    if (table === undefined) return false;
    const { comment, flags } = decodeTable(table);
    if (comment !== encoded.mark || flags !== 0) return false;
    return (
      (await chainsInPlace(socket, layout)) &&
      (await setsInPlace(socket, layout)) &&
      (await rulesInPlace(socket, layout, encoded.rules))
    );
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/**
 * The note of the layout that the table was made by, empty for one without a note or a table that is not ours;
 * undefined when there is no such table.
 */
export async function readLayoutNote(socket: NetlinkSocket, name: TableName): Promise<string | undefined> {
  try {
    const [table] = await socket.request(getTable(name));
    return table === undefined ? undefined : (noteOfMark(decodeTable(table).comment) ?? '');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Whether there is such a chain, whatever is in it. */
export async function hasChain(socket: NetlinkSocket, name: TableName, chain: string): Promise<boolean> {
  try {
    return (await socket.request(getChain(name, chain))).length > 0;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** Chains are asked for one by one: a dump is of the whole family, and others may have tens of thousands. */
async function chainsInPlace(socket: NetlinkSocket, layout: NftLayout): Promise<boolean> {
  for (const chain of layout.chains) {
    const [answer] = await socket.request(getChain(layout, chain.name));
    if (answer === undefined || !sameChain(chain, decodeChain(answer))) return false;
  }
  return true;
}

function sameChain({ hook }: NftChain, state: ChainState): boolean {
  if (hook === undefined) return state.hook === undefined;
  return (
    state.type === hook.type &&
    state.hook?.number === hookNumbers[hook.hook] &&
    state.hook.priority === hook.priority &&
    state.policy === policies[hook.policy ?? 'accept']
  );
}

async function setsInPlace(socket: NetlinkSocket, layout: NftLayout): Promise<boolean> {
  const there = await readSets(socket, layout);
  return layout.sets.every((set) => there.has(set));
}

/** The sets of the layout that the kernel has with keys and data of the same kind; none when there is no table. */
export async function readSets(socket: NetlinkSocket, layout: NftLayout): Promise<ReadonlySet<NftSet>> {
  const states = await socket.dump(getSets(layout)).catch((error) => {
    if (isMissing(error)) return [];
    throw error;
  });
  const byName = new Map(states.map(decodeSet).map((state) => [state.name, state]));
  const there = layout.sets.filter((set) => {
    const state = byName.get(set.name);
    return (
      state?.keyBytes === setKeyBytes(set) &&
      state.dataType === setDataType(set) &&
      state.flags === setFlagsOf(set)
    );
  });
  return new Set(there);
}

async function rulesInPlace(
  socket: NetlinkSocket,
  layout: NftLayout,
  messages: readonly NetlinkMessage[],
): Promise<boolean> {
  const wanted = messages.filter(({ type }) => type === message.NEWRULE).map(fingerprint);
  // The kernel has chains in the order in which they were made.
  const places = new Map(layout.chains.map((chain, index) => [chain.name, index]));
  const placeOf = (rule: NetlinkMessage) => places.get(decodeRule(rule).chain) ?? -1;
  const actual = (await socket.dump(getRules(layout)))
    .map((rule) => ({ rule, place: placeOf(rule) }))
    .filter(({ place }) => place >= 0)
    .sort((a, b) => a.place - b.place)
    .map(({ rule }) => fingerprint(rule));
  return wanted.length === actual.length && wanted.every((rule, index) => rule === actual[index]);
}

/** What we read in a rule, whether we wrote it or the kernel. Sets without a name have got one from the kernel. */
function fingerprint(rule: NetlinkMessage): string {
  const { chain, comment, expressions } = decodeRule(rule);
  return JSON.stringify([chain, comment, expressions], (_, value) =>
    typeof value === 'string' && value.startsWith('__set') ? '__set' : value,
  );
}
