import {
  dnatFromMap,
  drop,
  goto,
  match,
  rule,
  setMetaFromMap,
  updateSet,
  vmap,
} from '../../kernel/netlink/nftables/expressions.ts';
import {
  masked,
  metaL4proto,
  metaPriority,
  numgenRandom,
  thDport,
} from '../../kernel/netlink/nftables/fields.ts';
import { hexU32 } from '../../kernel/netlink/nftables/keys.ts';
import type { NftChain, NftElement, NftSet } from '../../kernel/netlink/nftables/spec.ts';
import { affinityTimeouts } from './affinity-timeouts.ts';
import { AFFINITY_BIT, keepChain, LOCAL_BIT } from './elements.ts';
import { countOfValue, type Draw, type Fields, idOfValue, takeToken } from './layout-fields.ts';

/*
 * Clients that keep their endpoint. `affinity` has under a client's address and the port's id the token of its
 * endpoint, and forgets it when the time is over that the rule in `keep-…` gave it. A token counts as long as the
 * endpoint is in the list that the connection goes by (`sticky` or `sticky-local`); if it has gone, the client draws
 * another. What the map says of an endpoint is never the word of a number of slots, which may be another's by now.
 */

/** More clients than that at a time, and the next ones are served without being remembered. */
const CLIENTS_MAX = 1 << 18;
/** Written down for the map, and never in force: each rule has its own. */
const DEFAULT_TIMEOUT_MS = 10_800_000;

/** What was drawn: a value with affinity has the bit. */
const isToken = match(masked(metaPriority, AFFINITY_BIT), '==', 0);

export function affinitySets({ source, destination }: Fields): NftSet[] {
  const token = { key: [metaPriority, metaL4proto], data: [destination, thDport] } as const;
  return [
    {
      name: 'affinity',
      key: [metaPriority, source],
      data: [metaPriority],
      size: CLIENTS_MAX,
      dynamic: true,
      timeoutMs: DEFAULT_TIMEOUT_MS,
    },
    { name: 'tokens', key: [metaPriority, metaL4proto, numgenRandom(0x10000)], data: [metaPriority] },
    { name: 'sticky', ...token },
    { name: 'sticky-local', ...token },
    { name: 'lists', key: ['classid'], data: ['classid'] },
    { name: 'lists-local', key: ['classid'], data: ['classid'] },
    { name: 'timeouts', key: ['classid'], data: 'verdict' },
    { name: 'draws', key: ['classid'], data: 'verdict' },
  ];
}

/** Which chain draws a token for a number of slots. */
export function affinityElements(draws: readonly Draw[]): NftElement[] {
  return draws.map(({ code, name }): NftElement => {
    return { set: 'draws', key: hexU32(code), data: { verdict: 'jump', chain: `draw-${name}` } };
  });
}

export function affinityChains(fields: Fields, draws: readonly Draw[]): NftChain[] {
  return [
    ...affinityTimeouts.map((seconds) => keepFor(fields, seconds)),
    ...draws.map(({ name, field }): NftChain => {
      return { name: `draw-${name}`, rules: [rule(`one of ${name}`, takeToken(field))] };
    }),
    {
      name: 'deliver',
      rules: [
        rule('remember the endpoint', vmap([idOfValue], 'timeouts')),
        rule('to the endpoint', toToken(fields, 'sticky')),
        rule('to the endpoint on this node', toToken(fields, 'sticky-local')),
        rule('it has just gone', drop()),
      ],
    },
    {
      name: 'draw',
      rules: [
        rule('by the number of slots', vmap([countOfValue], 'draws')),
        rule('to the endpoint', isToken, goto('deliver')),
        rule('its slot has just gone', takeToken(numgenRandom(1)), goto('deliver')),
        rule('its list has just gone', drop()),
      ],
    },
    stuckChain(fields, 'stuck', 'sticky', 'lists'),
    stuckChain(fields, 'stuck-local', 'sticky-local', 'lists-local'),
    {
      name: 'affinity',
      rules: [
        rule('on this node', match(masked(metaPriority, LOCAL_BIT), '!=', 0), goto('affinity-local')),
        rule('a client that was here', lastToken(fields), goto('stuck')),
        rule('a new client', goto('draw')),
      ],
    },
    {
      name: 'affinity-local',
      rules: [
        rule('a client that was here', lastToken(fields), goto('stuck-local')),
        rule('a new client', goto('draw')),
      ],
    },
  ];
}

/** The value gives way to the client's token; without one it stays. */
function lastToken({ source }: Fields) {
  return setMetaFromMap('priority', [idOfValue, source], 'affinity');
}

function toToken({ family }: Fields, map: 'sticky' | 'sticky-local') {
  return dnatFromMap(family, [metaPriority, metaL4proto], map);
}

/** Makes what is there live longer, and writes down what is not. */
function keepFor({ source }: Fields, seconds: number): NftChain {
  const remember = updateSet('affinity', [idOfValue, source], {
    data: metaPriority,
    timeoutMs: seconds * 1000,
  });
  return { name: keepChain(seconds), rules: [rule('remember', remember)] };
}

function stuckChain(
  fields: Fields,
  name: string,
  map: 'sticky' | 'sticky-local',
  lists: 'lists' | 'lists-local',
): NftChain {
  const forget = updateSet('affinity', [idOfValue, fields.source], { data: metaPriority, op: 'delete' });
  return {
    name,
    rules: [
      rule('remember the endpoint longer', vmap([idOfValue], 'timeouts')),
      rule('where it was', toToken(fields, map)),
      rule('its endpoint has gone', forget),
      rule('another one', setMetaFromMap('priority', [idOfValue], lists), goto('draw')),
      rule('its list has just gone', drop()),
    ],
  };
}
