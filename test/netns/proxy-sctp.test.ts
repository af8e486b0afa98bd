import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { families } from '../../core/address.ts';
import type { Backend } from '../../proxy/backend.ts';
import { removeAllModes } from '../../proxy/cleanup.ts';
import { openIptables } from '../../proxy/iptables/backend.ts';
import { openIpvs } from '../../proxy/ipvs/backend.ts';
import { openNftables } from '../../proxy/nftables/backend.ts';
import { labName } from './lab.ts';
import { factOf } from './missing.ts';
import { missingIpvs } from './missing-ipvs.ts';
import { BackendLab, policy, type Source, type Target, type TestService } from './proxy-backend-lab.ts';
import { runInside } from './proxy-ipvs-lab.ts';
import { PORT, type Pod } from './proxy-lab.ts';

/* SCTP in all modes, where the kernel has it: `npm run test:vm -- test/netns/proxy-sctp.test.ts`. */

const modes: Readonly<Record<string, (namespaceFd: number) => Backend>> = {
  nftables: (namespaceFd) => openNftables({ namespaceFd, policy }),
  iptables: (namespaceFd) => openIptables({ namespaceFd, policy, variant: 'nft', checkIntervalMs: 0 }),
  ipvs: (namespaceFd) => openIpvs({ namespaceFd, policy }),
};

const folder = mkdtempSync(join(tmpdir(), 'fairlead-sctp-'));
const program = join(folder, 'sctp');
execFileSync('cc', ['-o', program, join(import.meta.dirname, 'clients/sctp.c')]);
const missing = missingSctp();
const missingForIpvs = missing ?? (await missingIpvs());
const stack = new DisposableStack();
let lab: BackendLab;

test.before(async () => {
  if (missing !== undefined) return;
  lab = await BackendLab.open(labName());
  for (const pod of ['one', 'three'] as const) await startServer(pod);
});
test.after.always(async () => {
  stack[Symbol.dispose]();
  await lab?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

function missingSctp(): string | undefined {
  const { stdout } = spawnSync(program, ['ask', '127.0.0.1', '1', '1'], { encoding: 'utf8' });
  return stdout.startsWith('socket: ') ? 'this kernel has no SCTP' : undefined;
}

/** Beside those that every pod has. */
async function startServer(pod: Pod): Promise<void> {
  const [command, args] = inNamespace(lab.lab.from(pod).namespace, [program, 'serve', `${PORT}`, pod]);
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  stack.defer(() => child.kill('SIGKILL'));
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  if (said.toString() !== 'ready\n') throw new Error(said.toString());
}

/** Asks some times one after the other: who answered, and whom they saw. */
function seen(source: Source, { ip, port }: Target, count = 4, seconds = 30): string {
  const { namespace } = lab.lab.from(source);
  const ask = () => {
    const words = [program, 'ask', ip, `${port}`, `${seconds}`];
    try {
      return runInside(namespace, ...words).trim();
    } catch (error) {
      return String((error as { stdout?: string }).stdout).trim();
    }
  };
  return [...new Set(Array.from({ length: count }, ask))].sort().join(', ');
}

function fact(title: string, run: (t: ExecutionContext, backend: Backend) => Promise<void>): void {
  for (const [mode, open] of Object.entries(modes)) {
    factOf(mode === 'ipvs' ? missingForIpvs : missing)(`${mode}: ${title}`, async (t) => {
      t.teardown(() => removeAllModes({ namespaceFd: lab.namespace.fd }));
      using backend = open(lab.namespace.fd);
      await backend.updateNode(lab.facts());
      await run(t, backend);
    });
  }
}

const service: TestService = { number: 1, pods: ['one'], protocols: ['sctp'] };

fact('SCTP reaches endpoints here and elsewhere, and shows the client where it is to', async (t, backend) => {
  for (const family of families) {
    const at = (kind: 'clusterIP' | 'nodePort' | 'loadBalancerIP') => lab.target(family, kind, 1);
    const [client, outside] = [lab.addressOf('client', family), lab.addressOf('outside', family)];
    const [bridge, node] = [lab.bridgeAddress(family), lab.nodeAddress(family)];
    await lab.write(backend, [service]);
    t.is(seen('client', at('clusterIP')), `one saw ${client}`);
    t.is(seen('node', at('clusterIP')), `one saw ${bridge}`);
    t.is(seen('outside', at('nodePort')), `one saw ${bridge}`);
    await lab.write(backend, [{ ...service, view: { externalPolicy: 'Local' } }]);
    t.is(seen('outside', at('loadBalancerIP')), `one saw ${outside}`);
    await lab.write(backend, [{ ...service, pods: ['three'] }]);
    t.is(seen('client', at('clusterIP')), `three saw ${client}`);
    t.is(seen('outside', at('nodePort')), `three saw ${node}`);
  }
});

fact('SCTP without endpoints is refused or dropped', async (t, backend) => {
  await lab.write(backend, [{ ...service, pods: [] }]);
  for (const family of families)
    t.regex(seen('client', lab.target(family, 'clusterIP', 1), 1, 2), /^connect: /);
});
