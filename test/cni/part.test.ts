import test from 'ava';
import { isEmpty, joinRows, type Part, type PartRows, rowKinds, rowsOf } from '../../cni/part.ts';
import { hostPortElement } from '../../cni/types/hostport.ts';
import { WantedRows } from '../../cni/wanted.ts';
import type { Ip } from '../../core/address.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { heldBy } from './host-port-holders.ts';

const element = (key: string, data?: string): NftElement => ({ set: 's', key, ...(data && { data }) });
const partOf = (rows: PartRows, type = 'x'): Part => ({
  network: 'n',
  containerId: 'c',
  ifname: 'i',
  type,
  rows,
});
const attachment = { hostName: 'fl0', alias: 'fairlead x' };

test('a port is guarded before it is there, and limited after', (t) => {
  const at = (kind: (typeof rowKinds)[number]) => rowKinds.indexOf(kind);
  t.true(at('bridgeElements') < at('attachment'));
  for (const kind of ['vlans', 'routes', 'qdiscs', 'pod'] as const) t.true(at('attachment') < at(kind));
});

test('rows are found by the keys of their table', (t) => {
  const rows: PartRows = { attachment, elements: [element('a')], sysctls: [{ key: 'net/x', value: '1' }] };
  t.deepEqual([...rowsOf(rows, 'attachment').keys()], ['fl0']);
  t.deepEqual([...rowsOf(rows, 'elements').keys()], ['s a']);
  t.deepEqual([...rowsOf(rows, 'sysctls').keys()], ['net/x']);
  t.is(rowsOf(rows, 'qdiscs').size, 0);
  t.false(isEmpty(rows));
  t.true(isEmpty({ elements: [] }));
});

test('of equal rows the second counts, but what was before both stays', (t) => {
  const setting = { kind: 'mtuBytes', ifname: 'eth0' } as const;
  const joined = joinRows(
    {
      attachment,
      elements: [element('a', '1'), element('b')],
      pod: [{ ...setting, value: 1400, previous: 1500 }],
    },
    { elements: [element('a', '2')], pod: [{ ...setting, value: 1300, previous: 1400 }] },
  );
  t.deepEqual(joined, {
    attachment,
    elements: [element('a', '2'), element('b')],
    pod: [{ ...setting, value: 1300, previous: 1500 }],
  });
});

test('a row that two parts want is wanted until both are gone', (t) => {
  const wanted = new WantedRows();
  const [first, second] = [
    partOf({ elements: [element('a'), element('b')] }),
    partOf({ elements: [element('a')] }),
  ];
  wanted.add(first);
  wanted.add(second);
  wanted.remove(first);
  t.deepEqual([...wanted.rows('elements').keys()], ['s a']);
  t.true(wanted.has('elements', 's a'));
  wanted.remove(second);
  t.is(wanted.size('elements'), 0);
});

test('who holds a host port is found, and no more when it is gone', (t) => {
  const holders = heldBy('abc', ports(8080));
  holders.add({ key: 'def', containerId: 'def' }, ports(8081));
  t.is(holders.conflict('x', ports(8080))?.message, 'hostPort 8080/tcp is already taken by abc');
  t.is(holders.conflict('abc', ports(8080)), undefined, 'its own');
  holders.remove({ key: 'def', containerId: 'def' }, ports(8080));
  t.not(holders.conflict('x', ports(8080)), undefined, "another's");
  holders.remove({ key: 'abc', containerId: 'abc' }, ports(8080));
  t.is(holders.conflict('x', ports(8080)), undefined);
  t.not(holders.conflict('x', ports(8081)), undefined);
});

test('a row is made when one part that wants it is, and lost when that is said', (t) => {
  const wanted = new WantedRows();
  const part = partOf({ sysctls: [{ key: 'net/x', value: '1' }] });
  wanted.add(part);
  t.false(wanted.isMade('sysctls', 'net/x'));
  wanted.noteMade(part);
  wanted.add(part);
  t.true(wanted.isMade('sysctls', 'net/x'));
  wanted.noteLost('sysctls');
  t.false(wanted.isMade('sysctls', 'net/x'));
});

function ports(hostPort: number): PartRows {
  const port = { family: 4, protocol: 'tcp', hostPort, pod: '10.0.0.2' as Ip, containerPort: 80 } as const;
  return { elements: [hostPortElement(port)] };
}
