import { createServer, type Server } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import type { Ip } from '../../../core/address.ts';
import { ServiceHealthServers } from '../../../proxy/health/service-health.ts';
import { ask, outcomeOf } from './ask.ts';

const local = ['127.0.0.1' as Ip];

function open(t: ExecutionContext) {
  let isProxyHealthy = true;
  const failures: string[] = [];
  const servers = new ServiceHealthServers({
    isProxyHealthy: () => isProxyHealthy,
    onFailure: (service, port) => failures.push(`${service} ${port}`),
    log: pino({ level: 'silent' }),
  });
  t.teardown(() => servers[Symbol.asyncDispose]());
  servers.setNodePortIps({ 4: local, 6: [] });
  const sync = (checks: Record<string, readonly [port: number, endpoints: number]>) =>
    servers.sync(
      new Map(
        Object.entries(checks).map(([service, [port, localReadyEndpoints]]) => [
          service,
          { port, localReadyEndpoints },
        ]),
      ),
    );
  const setHealthy = (value: boolean) => {
    isProxyHealthy = value;
  };
  return { servers, sync, failures, setHealthy };
}

/** A port that nobody has, or that `hold` has. */
async function somePort(
  t: ExecutionContext,
  { hold = false } = {},
): Promise<{ port: number; holder: Server }> {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
  const address = holder.address();
  if (!hold) await new Promise((resolve) => holder.close(resolve));
  t.teardown(() => holder.close());
  return { port: typeof address === 'object' ? (address?.port ?? 0) : 0, holder };
}

test.serial('a Service’s port answers with its endpoints of the moment, on any path', async (t) => {
  const { sync, setHealthy } = open(t);
  const { port } = await somePort(t);
  await sync({ 'shop/web': [port, 2] });
  const { status, headers, body } = await ask(port, '/any/path');
  t.is(status, 200);
  t.is(headers['content-type'], 'application/json');
  t.is(headers['x-load-balancing-endpoint-weight'], '2');
  t.like(JSON.parse(body), { service: { namespace: 'shop', name: 'web' }, localEndpoints: 2 });
  await sync({ 'shop/web': [port, 0] });
  t.is(await outcomeOf(port), 503);
  await sync({ 'shop/web': [port, 1] });
  setHealthy(false);
  t.is(await outcomeOf(port), 503);
});

test.serial(
  'a port that changes is closed and the new one opened; a Service that is gone has none',
  async (t) => {
    const { sync } = open(t);
    const [{ port: first }, { port: second }] = [await somePort(t), await somePort(t)];
    await sync({ 'a/a': [first, 1] });
    await sync({ 'a/a': [second, 1] });
    t.is(await outcomeOf(first), 'ECONNREFUSED');
    t.is(await outcomeOf(second), 200);
    await sync({ 'b/b': [second, 0], 'a/a': [first, 1] });
    t.is(await outcomeOf(second), 503);
    await sync({});
    t.is(await outcomeOf(second), 'ECONNREFUSED');
  },
);

test.serial('a port in use is told of once, and tried again with the next sync', async (t) => {
  const { sync, failures } = open(t);
  const { port, holder } = await somePort(t, { hold: true });
  const { port: other } = await somePort(t);
  await sync({ 'a/a': [port, 1], 'b/b': [other, 1] });
  await sync({ 'a/a': [port, 1], 'b/b': [other, 1] });
  t.deepEqual(failures, [`a/a ${port}`]);
  t.is(await outcomeOf(other), 200);
  await new Promise((resolve) => holder.close(resolve));
  await sync({ 'a/a': [port, 1], 'b/b': [other, 1] });
  t.is(await outcomeOf(port), 200);
});

test.serial('it listens where node ports are open, and follows', async (t) => {
  const { servers, sync } = open(t);
  const { port } = await somePort(t);
  await sync({ 'a/a': [port, 1] });
  t.is(await outcomeOf(port, '127.0.0.2'), 'ECONNREFUSED');
  servers.setNodePortIps({ 4: ['127.0.0.2' as Ip], 6: [] });
  await sync({ 'a/a': [port, 1] });
  t.is(await outcomeOf(port), 'ECONNREFUSED');
  t.is(await outcomeOf(port, '127.0.0.2'), 200);
  const there = async () => [
    await outcomeOf(port),
    await outcomeOf(port, '127.0.0.2'),
    await outcomeOf(port, '::1'),
  ];
  servers.setNodePortIps({ 4: 'all', 6: 'all' });
  await sync({ 'a/a': [port, 1] });
  t.deepEqual(await there(), [200, 200, 200]);
  servers.setNodePortIps({ 4: 'all', 6: [] });
  await sync({ 'a/a': [port, 1] });
  t.deepEqual(await there(), [200, 200, 'ECONNREFUSED']);
  servers.setNodePortIps({ 4: local, 6: 'all' });
  await sync({ 'a/a': [port, 1] });
  t.deepEqual(await there(), [200, 'ECONNREFUSED', 200]);
});

test.serial('where the node has no address for node ports, it listens nowhere', async (t) => {
  const { servers, sync } = open(t);
  const { port } = await somePort(t);
  servers.setNodePortIps({ 4: [], 6: [] });
  await sync({ 'a/a': [port, 1] });
  t.is(await outcomeOf(port), 'ECONNREFUSED');
  t.is(await outcomeOf(port, '::1'), 'ECONNREFUSED');
  servers.setNodePortIps({ 4: local, 6: [] });
  await sync({ 'a/a': [port, 1] });
  t.is(await outcomeOf(port), 200);
});

test.serial('syncs that come while one is under way are one, and the last counts', async (t) => {
  const { servers, sync } = open(t);
  const { port } = await somePort(t);
  await Promise.all([sync({ 'a/a': [port, 1] }), sync({}), sync({ 'a/a': [port, 0] })]);
  t.is(await outcomeOf(port), 503);
  await servers[Symbol.asyncDispose]();
  t.is(await outcomeOf(port), 'ECONNREFUSED');
});
