import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Bus, BusError, BusTimeoutError, isAbsent, parseBusAddress } from '../../../cni/dbus/bus.ts';

async function openFakeBus(t: ExecutionContext, serve: (socket: Socket) => void): Promise<string> {
  const directory = mkdtempSync('/dev/shm/fairlead-bus-');
  const path = join(directory, 'bus');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}));
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(directory, { recursive: true });
  });
  return path;
}

test('addresses of the bus are those of the specification, as far as they are sockets', (t) => {
  t.is(parseBusAddress(undefined), '/run/dbus/system_bus_socket');
  t.is(parseBusAddress(''), '/run/dbus/system_bus_socket');
  t.is(parseBusAddress('unix:path=/tmp/a%20b'), '/tmp/a b');
  t.is(parseBusAddress('tcp:host=a,port=1;unix:guid=12,path=/tmp/x,guid=3'), '/tmp/x');
  t.is(parseBusAddress('unix:abstract=/tmp/x'), '\0/tmp/x');
  t.throws(() => parseBusAddress('tcp:host=a,port=1'), {
    message: 'DBUS_SYSTEM_BUS_ADDRESS: "tcp:host=a,port=1" names no unix socket',
  });
});

test('where there is no bus nobody is there', async (t) => {
  const error = await t.throwsAsync(Bus.open({ path: '/nowhere/bus', timeoutMs: 1_000 }));
  t.true(isAbsent(error));
});

test('a bus that lets nobody in is told in its words, and is there', async (t) => {
  const path = await openFakeBus(t, (socket) =>
    socket.once('data', () => socket.end('REJECTED EXTERNAL\r\n')),
  );
  const error = await t.throwsAsync(Bus.open({ path, timeoutMs: 5_000 }), { instanceOf: BusError });
  t.is(error.message, 'the bus does not let us in: REJECTED EXTERNAL');
  t.false(isAbsent(error));
});

test('a bus that is silent is waited for so long', async (t) => {
  const path = await openFakeBus(t, () => {});
  await t.throwsAsync(Bus.open({ path, timeoutMs: 50 }), { instanceOf: BusTimeoutError });
});

test('a bus that ends, or that talks nonsense, is no bus', async (t) => {
  const ending = await openFakeBus(t, (socket) => socket.once('data', () => socket.end('OK 12\r\n')));
  await t.throwsAsync(Bus.open({ path: ending, timeoutMs: 5_000 }), {
    message: 'the bus ended the connection',
  });
  const nonsense = await openFakeBus(t, (socket) =>
    socket.once('data', () => socket.write('OK 12\r\n'.padEnd(99))),
  );
  await t.throwsAsync(Bus.open({ path: nonsense, timeoutMs: 5_000 }), { message: 'no message of D-Bus' });
  const endless = await openFakeBus(t, (socket) =>
    socket.once('data', () => socket.write('x'.repeat(9_999))),
  );
  await t.throwsAsync(Bus.open({ path: endless, timeoutMs: 5_000 }), { message: 'this is no bus' });
});
