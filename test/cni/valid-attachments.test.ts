import test from 'ava';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { parseValidAttachments, staleAttachments } from '../../cni/valid-attachments.ts';

function parse(config: Record<string, unknown>) {
  const valid = parseValidAttachments(foldKeys(config));
  return valid instanceof CniError ? `${valid.code} ${valid.message}` : valid;
}

test('an absent list says nothing, an empty one that nothing is in use', (t) => {
  t.is(parse({}), undefined);
  t.is(parse({ 'cni.dev/valid-attachments': null }), undefined);
  t.deepEqual(parse({ 'cni.dev/valid-attachments': [] }), []);
});

test('the older key counts where the newer is missing', (t) => {
  const [a, b] = [
    { containerID: 'a', ifname: 'eth0' },
    { containerID: 'b', ifname: 'eth0' },
  ];
  t.deepEqual(parse({ 'cni.dev/attachments': [a] }), [{ containerId: 'a', ifname: 'eth0' }]);
  t.deepEqual(parse({ 'cni.dev/attachments': [a], 'cni.dev/valid-attachments': [b] }), [
    { containerId: 'b', ifname: 'eth0' },
  ]);
});

test('a list that cannot be understood is refused as a whole', (t) => {
  t.is(
    parse({ 'cni.dev/valid-attachments': {} }),
    '7 invalid network config: cni.dev/valid-attachments: must be a list, not {}',
  );
  t.is(
    parse({ 'cni.dev/valid-attachments': [{ containerID: 'a' }] }),
    '7 invalid network config: cni.dev/valid-attachments[0]: must have containerID and ifname, not {"containerID":"a"}',
  );
});

test('those of the network that are not in the list are stale', (t) => {
  const id = (network: string, containerId: string, ifname: string) => ({ network, containerId, ifname });
  const ids = [
    id('n', 'a', 'eth0'),
    id('n', 'a', 'eth1'),
    id('n', 'b', ''),
    id('n', 'c', ''),
    id('n', '', ''),
    id('m', 'x', 'eth0'),
  ];
  const valid = [
    { containerId: 'a', ifname: 'eth0' },
    { containerId: 'b', ifname: 'net1' },
  ];
  const stale = staleAttachments(ids, 'n', valid);
  t.deepEqual(
    stale.map(({ containerId, ifname }) => `${containerId}/${ifname}`),
    ['a/eth1', 'c/', '/'],
  );
  t.is(staleAttachments(ids, 'n', []).length, 5);
});
