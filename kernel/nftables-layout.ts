import { isMissing } from './errors.ts';
import { hookNumbers, policies } from './netlink/nftables/constants.ts';
import { kernelName } from './netlink/nftables/encode-expression.ts';
import type { EncodedLayout } from './netlink/nftables/layout.ts';
import {
  type ChainState,
  decodeChain,
  decodeRule,
  decodeSet,
  decodeTable,
  setDataType,
  setFlagsOf,
  setKeyBytes,
} from './netlink/nftables/messages.ts';
import { getChain, getRules, getSets, getTable } from './netlink/nftables/requests.ts';
import type { NftChain, NftLayout, NftRule } from './netlink/nftables/spec.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/**
 * Whether the kernel has the layout as we made it: our mark on the table, every chain, every set, and in each chain
 * the same rules. Rules are compared by comment and by the kinds of their expressions, so a kernel that writes a
 * value in another way than we do does not make us rebuild again and again.
 */
export async function layoutInPlace(
  socket: NetlinkSocket,
  layout: NftLayout,
  encoded: Pick<EncodedLayout, 'mark'>,
): Promise<boolean> {
  try {
    const [table] = await socket.request(getTable(layout));
    if (table === undefined) return false;
    const { comment, flags } = decodeTable(table);
    if (comment !== encoded.mark || flags !== 0) return false;
    return (
      (await chainsInPlace(socket, layout)) &&
      (await setsInPlace(socket, layout)) &&
      (await rulesInPlace(socket, layout))
    );
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** Chains are asked for one by one: a dump is of the whole family, and others may have tens of thousands. */
async function chainsInPlace(socket: NetlinkSocket, layout: NftLayout): Promise<boolean> {
  for (const chain of layout.chains) {
    const [message] = await socket.request(getChain(layout, chain.name));
    if (message === undefined || !sameChain(chain, decodeChain(message))) return false;
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
  const states = (await socket.dump(getSets(layout))).map(decodeSet);
  const byName = new Map(states.map((state) => [state.name, state]));
  return layout.sets.every((set) => {
    const state = byName.get(set.name);
    return (
      state?.keyBytes === setKeyBytes(set) &&
      state.dataType === setDataType(set) &&
      state.flags === setFlagsOf(set)
    );
  });
}

async function rulesInPlace(socket: NetlinkSocket, layout: NftLayout): Promise<boolean> {
  const found = new Map<string, string[]>(layout.chains.map((chain) => [chain.name, []]));
  for (const message of await socket.dump(getRules(layout))) {
    const rule = decodeRule(message);
    found.get(rule.chain)?.push(fingerprint(rule));
  }
  return layout.chains.every((chain) => {
    const actual = found.get(chain.name) ?? [];
    return (
      actual.length === chain.rules.length &&
      chain.rules.every((rule, index) => fingerprint(rule) === actual[index])
    );
  });
}

function fingerprint({ comment = '', expressions }: NftRule | ReturnType<typeof decodeRule>): string {
  return `${comment}: ${expressions.map(kernelName).join(' ')}`;
}
