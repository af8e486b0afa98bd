import { rule, setMetaFromMap, vmap } from '../../kernel/netlink/nftables/expressions.ts';
import { ipDaddr, metaMark } from '../../kernel/netlink/nftables/fields.ts';
import { hexU32, nftKey } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement, NftLayout } from '../../kernel/netlink/nftables/spec.ts';
import { NftTable, openNftSocket } from '../../kernel/nftables.ts';

/** A table that takes several transactions to fill. */
export const largeLayout: NftLayout = {
  family: 'ip',
  table: 'fairlead-large',
  chains: [
    {
      name: 'forward',
      hook: { type: 'filter', hook: 'forward', priority: 0 },
      rules: [
        rule('mark', setMetaFromMap('mark', [ipDaddr], 'marks')),
        rule('where to', vmap([metaMark], 'ways')),
      ],
    },
    { name: 'way', rules: [] },
  ],
  sets: [
    { name: 'marks', key: [ipDaddr], data: [metaMark], size: 1 << 16 },
    { name: 'ways', key: [metaMark], data: 'verdict', size: 4 },
  ],
};

/** Elements of both maps, in no order. */
export function* largeRows(): Generator<NftElement> {
  yield { set: 'ways', key: hexU32(1), data: { verdict: 'goto', chain: 'way' } };
  for (let host = 0; host < 25_000; host += 1) {
    const key = nftKey([ipDaddr], `10.0.${host >> 8}.${host & 255}`);
    yield { set: 'marks', key, data: hexU32(host) };
  }
  yield { set: 'ways', key: hexU32(2), data: { verdict: 'drop' } };
}

/** Kills the process when the table's last transaction is about to begin. */
function* rowsUntilKilled(): Generator<NftElement> {
  yield* largeRows();
  process.kill(process.pid, 'SIGKILL');
}

if (import.meta.main) {
  const socket = openNftSocket();
  await new NftTable({ socket, layout: largeLayout, rows: largeRows }).fill(rowsUntilKilled());
}
