import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { parse } from 'yaml';
import { completionWords } from '../../cli/completion.ts';
import { proxyCommand } from '../../cli/proxy.ts';
import { VERSION } from '../../cli/version.ts';

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));

function fairlead(...args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, 'proxy', ...args], (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : error.code, stdout, stderr }),
    );
  });
}

function folder(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'fairlead-proxy-'));
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
}

test('flags are written as Go programs take them, and come out as a file that means the same', async (t) => {
  const [first, second] = [join(folder(t), 'first.yaml'), join(folder(t), 'second.yaml')];
  const { code, stderr } = await fairlead(
    ...['--write-config-to', first, '--proxy-mode=nftables', '--masquerade-all', '--profiling=false'],
    ...[
      '--nodeport-addresses',
      '10.0.0.0/8',
      '--nodeport-addresses=fd00::/8',
      '-v=3',
      '--oom-score-adj',
      '-7',
    ],
  );
  t.is(code, 0, stderr);
  const written = parse(readFileSync(first, 'utf8'));
  t.like(written, { mode: 'nftables', oomScoreAdj: -7, nodePortAddresses: ['10.0.0.0/8', 'fd00::/8'] });
  t.like(written.nftables, { masqueradeAll: true, syncPeriod: '30s' });
  t.is(written.logging.verbosity, 3);
  t.is((await fairlead('--config', first, '--write-config-to', second)).code, 0);
  t.deepEqual(parse(readFileSync(second, 'utf8')), written);
});

test('its version is Fairlead’s', async (t) => {
  t.like(await fairlead('--version'), { code: 0, stdout: `${VERSION}\n` });
});

test('words of a flag may be joined by underscores, and values keep theirs', async (t) => {
  const path = join(folder(t), 'out_of_flags.yaml');
  const { code, stderr } = await fairlead(
    ...['--write_config_to', path, '--healthz_bind_address=127.0.0.1:1', '--masquerade_all'],
    ...['--proxy-mode=nftables', '--pod_bridge_interface', 'br_0', '--kubeconfig=/a_b'],
  );
  t.is(code, 0, stderr);
  t.like(parse(readFileSync(path, 'utf8')), {
    healthzBindAddress: '127.0.0.1:1',
    detectLocal: { bridgeInterface: 'br_0' },
    nftables: { masqueradeAll: true },
    clientConnection: { kubeconfig: '/a_b' },
  });
  const unknown = await fairlead('--udp_timeout=1s');
  t.is(unknown.code, 2);
  t.regex(unknown.stderr, /unknown option '--udp_timeout=1s'/);
});

test('a command line and a file that cannot be used end with status 2 and every problem', async (t) => {
  const flags = await fairlead('--masquerade-all=perhaps', '--proxy-mode', 'magic');
  t.is(flags.code, 2);
  t.regex(flags.stderr, /--masquerade-all: is not true or false: "perhaps"; mode: is none of .*"magic"/);
  const unknown = await fairlead('--udp-timeout=1s');
  t.is(unknown.code, 2);
  t.regex(unknown.stderr, /unknown option '--udp-timeout=1s'/);
  const missing = await fairlead('--config', '/nowhere/config.conf');
  t.is(missing.code, 2);
  t.regex(missing.stderr, /--config: ENOENT/);
  const path = join(folder(t), 'config.conf');
  writeFileSync(path, 'kind: Nothing');
  const file = await fairlead('--config', path);
  t.is(file.code, 2);
  t.regex(file.stderr, /config\.conf: apiVersion: .*; kind: /);
});

test('every flag is in the completion', (t) => {
  const words = completionWords(proxyCommand()).get('');
  for (const name of ['--config', '--cleanup', '--proxy-mode', '--v', '--master', '--healthz-port'])
    t.true(words?.includes(name), name);
});
