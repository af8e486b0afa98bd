import test from 'ava';
import { KubeClient } from '../../kube/client.ts';
import { LEASES } from '../../kube/types.ts';
import { KillableServer } from '../controlplane/killable.ts';
import { configured, until } from '../controlplane/server.ts';
import { start, untilEqual } from './leases-informer.ts';

/** Sockets and timers of this process; nothing else runs here, as this is the only test of its file. */
function held(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap' || name === 'Timeout')
    .length;
}

test('an informer outlives its server, finds what it missed, and leaves no socket and no timer', async (t) => {
  await using server = await KillableServer.start();
  const before = held();
  {
    using client = new KubeClient(server.config);
    const { informer, reported, end } = start({ client });
    for (const name of ['a', 'b', 'c']) await client.create(LEASES, configured(name, 'default'));
    await untilEqual(informer, client);
    for (const missed of ['a', 'b']) {
      await server.kill();
      await server.start();
      // Over a connection of its own, sooner than the informer is back.
      using other = new KubeClient(server.config);
      reported.length = 0;
      await other.delete(LEASES, missed, { namespace: 'default' });
      await untilEqual(informer, other);
      t.deepEqual(reported, [`default/${missed}`]);
    }
    await end();
  }
  await until(() => held() <= before, `${held()} held, ${before} before`);
});
