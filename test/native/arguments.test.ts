import test from 'ava';
import { native } from '../../native/index.ts';
import { openDescriptors } from './setting.ts';

const lane = native.lane();
const bytes = new Uint8Array(4);

/** Calls that the types forbid: what is wrong, and the name that the error must carry. */
const wrongCalls: readonly [keyof typeof native, readonly unknown[], string][] = [
  ['openSocket', ['x', 16, 3, 0, 0], 'namespaceFd'],
  ['openSocket', [-2, 16, 3, 0, 0], 'namespaceFd'],
  ['openSocket', [-1, undefined, 3, 0, 0], 'domain'],
  ['openSocket', [-1, 16, 3.5, 0, 0], 'type'],
  ['openSocket', [-1, 16, 3, 2 ** 40, 0], 'protocol'],
  ['openSocket', [-1, 16, 3, 0, -1], 'bufferBytes'],
  ['setOption', [-1, 1, 1, 1], 'fd'],
  ['setOption', [0, '1', 1, 1], 'level'],
  ['setOption', [0, 1, null, 1], 'option'],
  ['setOption', [0, 1, 1, Number.NaN], 'value'],
  ['bind', [{}, bytes, 0], 'fd'],
  ['bind', [0, 'path', 0], 'sockaddr'],
  ['bind', [0, new Uint8Array(1), 0], 'sockaddr'],
  ['bind', [0, new Uint8Array(129), 0], 'sockaddr'],
  ['bind', [0, bytes, -1], 'backlog'],
  ['accept', [], 'fd'],
  ['receive', [true, 10], 'fd'],
  ['receive', [0, 0], 'maxBytes'],
  ['receive', [0, Number.POSITIVE_INFINITY], 'maxBytes'],
  ['send', [0, [1, 2]], 'data'],
  ['send', [0, new Uint16Array(2)], 'data'],
  ['exchange', [Symbol('fd'), bytes], 'fd'],
  ['exchange', [0, new DataView(new ArrayBuffer(4))], 'data'],
  ['openTun', [-2, 'tun', false], 'namespaceFd'],
  ['openTun', [-1, 'a name too long!', false], 'name'],
  ['keepTun', [-1], 'fd'],
  ['ethtool', [0, 7, 0, 0], 'name'],
  ['ethtool', [0, 'lo', -1, 0], 'command'],
  ['pump', [-1, -1, -1], 'tunFd'],
  ['pump', [0, -2, -1], 'udp4Fd'],
  ['pump', [0, -1, 'x'], 'udp6Fd'],
  ['setPumpTable', [{}, bytes, bytes], 'pump'],
  ['pumpState', [lane], 'pump'],
  ['stopPump', [null], 'pump'],
  ['run', [{}, []], 'lane'],
  ['run', [{ close: lane.close }, []], 'lane'],
  ['run', [null, []], 'lane'],
  ['run', [lane, {}], 'steps'],
  ['run', [lane, [1]], 'steps'],
  ['run', [lane, new Array(4097).fill({ fd: 0, data: bytes })], 'steps'],
  ['run', [lane, [{ fd: -1, data: bytes }]], 'steps[].fd'],
  ['run', [lane, [{ fd: 0, data: 'text' }]], 'steps[].data'],
  ['run', [lane, [{ data: bytes }]], 'steps[].namespaceFd'],
  ['run', [lane, [{ namespaceFd: 0, data: bytes }]], 'steps[].protocol'],
  ['run', [lane, [{ namespaceFd: 0, protocol: 0 }]], 'steps[].data'],
  ['poll', ['0', () => {}], 'fd'],
  ['poll', [0, 'callback'], 'callback'],
  ['openFile', [undefined, '/', 0], 'namespaceFd'],
  ['openFile', [-1, 7, 0], 'path'],
  ['openFile', [-1, '', 0], 'path'],
  ['openFile', [-1, '/a\0b', 0], 'path'],
  ['openFile', [-1, '/'.repeat(4096), 0], 'path'],
  ['openFile', [-1, '/', 'r'], 'flags'],
  ['createNamespace', [undefined], 'path'],
  ['unmountNamespace', [1], 'path'],
  ['close', [1n], 'fd'],
];

for (const [index, [name, args, argument]] of wrongCalls.entries()) {
  const given = args.map((value) => (Array.isArray(value) && value.length > 9 ? 'many' : label(value)));
  test(`${index}: ${name}(${given.join(', ')}) is refused by the name ${argument}`, (t) => {
    const error = t.throws(() => Reflect.apply(native[name], native, args), { any: true });
    t.true(error instanceof TypeError || error instanceof RangeError);
    t.is(String(error).match(/: (\S+) must/)?.[1], argument);
  });
}

function label(value: unknown): string {
  if (typeof value === 'string' && value.length > 20) return 'long text';
  return typeof value === 'object' && value !== null
    ? `${value.constructor.name} ${JSON.stringify(value)}`
    : String(value).replace('\0', '\\0');
}

test('a getter that throws in a step is the error that the caller sees', (t) => {
  const step = {
    fd: 0,
    get data(): Uint8Array {
      throw new Error('from the getter');
    },
  };
  t.throws(() => native.run(lane, [step]), { message: 'from the getter' });
});

test('refused arguments leave no descriptor open', (t) => {
  const before = openDescriptors();
  for (const [name, args] of wrongCalls)
    t.throws(() => Reflect.apply(native[name], native, args), { any: true });
  t.deepEqual(openDescriptors(), before);
});
