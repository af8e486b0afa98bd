import { startControlPlane } from '../../controlplane/main.ts';
import { cidrs, silent } from './server.ts';

// A control plane in a process of its own, for tests that kill it. Arguments: state folder, port.

const [stateDir = '', port = '0'] = process.argv.slice(2);
await using controlPlane = await startControlPlane({
  stateDir,
  listeners: [{ host: '127.0.0.1', port: Number(port) }],
  clusterCidrs: cidrs('10.244.0.0/16'),
  serviceCidrs: cidrs('10.96.0.0/16'),
  bookmarkIntervalMs: 500,
  log: silent,
});
process.stdout.write(`${JSON.stringify({ url: controlPlane.urls[0], token: controlPlane.token })}\n`);
await new Promise((resolve) => process.once('SIGTERM', resolve));
