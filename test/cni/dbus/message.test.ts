import test from 'ava';
import fc from 'fast-check';
import { decodeMessage, encodeCall } from '../../../cni/dbus/message.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');

test('a call is as libdbus makes it', (t) => {
  const call = {
    destination: 'org.freedesktop.DBus',
    path: '/org/freedesktop/DBus',
    interface: 'org.freedesktop.DBus',
    member: 'Hello',
  };
  const text = (value: string) => Buffer.from(value).toString('hex');
  t.deepEqual(
    Buffer.from(encodeCall({ ...call, mayStart: true }, 1)).toString('hex'),
    hex(`6c01 0001 00000000 01000000 6d000000
      01 016f00 15000000 ${text(call.path)} 00 0000
      02 017300 14000000 ${text(call.interface)} 00 000000
      03 017300 05000000 ${text('Hello')} 00 0000
      06 017300 14000000 ${text(call.destination)} 00 000000`).toString('hex'),
  );
  t.is(encodeCall(call, 1)[2], 2, 'nothing is started');
});

/** Recorded from firewalld 1.3.3: its answer to getActiveZones, with two zones. */
const zonesAnswer = hex(`
  6c02010180000000cc0300003500000006017300040000003a312e34000000000501750002000000080167000a617b73
  617b7361737d7d0007017300040000003a312e3000000000780000000000000008000000696e7465726e616c00000000
  200000000000000007000000736f757263657300100000000b00000031302e312e302e362f3332000700000074727573
  746564003000000007000000736f757263657300200000000b00000031302e312e302e352f3332000b00000066643030
  3a3a352f31323800
`);

test('answers are read: values inside values', (t) => {
  t.deepEqual(decodeMessage(zonesAnswer), {
    length: zonesAnswer.length,
    reply: {
      to: 2,
      error: undefined,
      value: [
        ['internal', [['sources', ['10.1.0.6/32']]]],
        ['trusted', [['sources', ['10.1.0.5/32', 'fd00::5/128']]]],
      ],
    },
  });
});

test('a message that has not come as a whole is waited for', (t) => {
  for (let length = 0; length < zonesAnswer.length; length += 1)
    t.is(decodeMessage(zonesAnswer.subarray(0, length)), undefined);
  const more = Buffer.concat([zonesAnswer, Buffer.from('l')]);
  t.is(decodeMessage(more)?.length, zonesAnswer.length);
});

test('what no service would send is refused, or read as something, and never holds up', (t) => {
  const changes = fc.array(fc.tuple(fc.nat(zonesAnswer.length - 1), fc.nat(255)), {
    minLength: 1,
    maxLength: 8,
  });
  fc.assert(
    fc.property(changes, (list) => {
      const bytes = Buffer.from(zonesAnswer);
      for (const [at, byte] of list) bytes[at] = byte;
      try {
        decodeMessage(bytes);
      } catch (error) {
        t.true(error instanceof Error);
      }
    }),
    { numRuns: 2_000 },
  );
  t.pass();
});

test('a call that is read back has no reply', (t) => {
  fc.assert(
    fc.property(fc.array(fc.string(), { maxLength: 4 }), fc.nat(), (args, serial) => {
      const bytes = encodeCall(
        { destination: 'a.b', path: '/', interface: 'a.b', member: 'c', args },
        serial,
      );
      t.deepEqual(decodeMessage(bytes), { length: bytes.length });
    }),
  );
});
