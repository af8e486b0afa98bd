import test from 'ava';
import { parseResolvConf } from '../../cni/resolv-conf.ts';

test('a resolv.conf is read line by line, without comments and half lines', (t) => {
  const text = [
    '# nameserver 10.0.0.1',
    '; nameserver 10.0.0.2',
    'nameserver 10.96.0.10 ignored',
    '\tnameserver fd00::10',
    'nameserver',
    'domain first.example',
    'domain cluster.local\r',
    'search a.example b.example',
    'search c.example',
    'options ndots:5  timeout:1',
    'sortlist 10.0.0.0',
  ];
  t.deepEqual(parseResolvConf(text.join('\n')), {
    nameservers: ['10.96.0.10', 'fd00::10'],
    domain: 'cluster.local',
    search: ['a.example', 'b.example', 'c.example'],
    options: ['ndots:5', 'timeout:1'],
  });
});

test('an empty one says nothing', (t) => {
  t.deepEqual(parseResolvConf(''), { nameservers: [], domain: undefined, search: [], options: [] });
});
