import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CniError } from '../../cni/error.ts';
import { addForeignIpam, callForeign, type ForeignCall, findPlugin } from '../../cni/foreign-ipam.ts';

const configText =
  '{"cniVersion":"1.0.0","name":"lan","type":"bridge","ipam":{"type":"fake","$(touch x)":1}}';

/** A folder with a plugin whose body is a shell script; every call of it is in the file `calls`. */
function fake(
  t: ExecutionContext,
  body: string,
): { call: ForeignCall; calls: () => string[]; logs: string[] } {
  const folder = mkdtempSync('/tmp/fairlead-test-');
  t.teardown(() => rmSync(folder, { recursive: true }));
  const script = `#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS" >>${folder}/calls\n${body}\n`;
  writeFileSync(join(folder, 'fake'), script);
  chmodSync(join(folder, 'fake'), 0o755);
  const logs: string[] = [];
  const env = new Map([
    ['CNI_COMMAND', 'ADD'],
    ['CNI_CONTAINERID', 'box'],
    ['CNI_ARGS', 'IP=10.1.0.5'],
    ['CNI_PATH', `/nonexistent:${folder}`],
  ]);
  return {
    call: { type: 'fake', env, configText, onLog: (text) => logs.push(text) },
    calls: () => readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n'),
    logs,
  };
}

async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'done';
  } catch (error) {
    return error instanceof CniError ? `${error.code} ${error.message} | ${error.details}` : String(error);
  }
}

test('the plugin gets the environment and the whole configuration, and its result is read', async (t) => {
  const { call, calls, logs } = fake(
    t,
    `[ "$(cat)" = '${configText}' ] || exit 3
     echo hello >&2
     echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/24","gateway":"10.1.0.1"}],
            "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.10"]}}'`,
  );
  t.like(await addForeignIpam(call), {
    ips: [{ address: '10.1.0.5/24', gateway: '10.1.0.1' }],
    routes: [{ destination: '0.0.0.0/0' }],
    dns: { nameservers: ['10.0.0.10'] },
  });
  t.deepEqual(calls(), ['ADD box IP=10.1.0.5']);
  t.deepEqual(logs, ['fake: hello']);
});

test('a result before 0.3.0 is read too', async (t) => {
  const { call } = fake(
    t,
    `echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/24","gateway":"10.1.0.1","routes":[{"dst":"0.0.0.0/0"}]},
            "ip6":{"ip":"fd00::5/64"},"dns":{}}'`,
  );
  const { ips, routes } = await addForeignIpam(call);
  t.deepEqual(ips as unknown, [
    { address: '10.1.0.5/24', gateway: '10.1.0.1' },
    { address: 'fd00::5/64', gateway: undefined },
  ]);
  t.is(routes.length, 1);
});

test("the plugin's own error is passed on, after DEL", async (t) => {
  const { call, calls } = fake(
    t,
    `[ $CNI_COMMAND = DEL ] || { echo '{"code":11,"msg":"pool is empty","details":"10.1.0.0/24"}'; exit 1; }`,
  );
  t.is(await refusal(addForeignIpam(call)), '11 pool is empty | 10.1.0.0/24');
  t.deepEqual(calls(), ['ADD box IP=10.1.0.5', 'DEL box IP=10.1.0.5']);
  t.is(await refusal(callForeign('CHECK', call)), '11 pool is empty | 10.1.0.0/24');
  t.is(await refusal(callForeign('DEL', call)), 'done');
});

for (const [result, problem] of [
  ['{"cniVersion":"1.0.0"}', '999 IPAM plugin returned missing IP config'],
  ['{"ips":[]}', '999 IPAM plugin returned missing IP config'],
  ['', '6 failed to parse the result of the IPAM plugin: must be an object, not ""'],
  ['null', '6 failed to parse the result of the IPAM plugin: must be an object, not "null\\n"'],
  [
    '{"ips":[{"address":"10.1.0.5"},{}]}',
    '6 failed to parse the result of the IPAM plugin: ' +
      'ips[0].address: must be an address such as 10.1.0.2/24, not "10.1.0.5"; ips[1].address: missing',
  ],
] as const) {
  test(`the result ${JSON.stringify(result)} is taken back and refused`, async (t) => {
    const { call, calls } = fake(t, result === '' ? '' : `echo '${result}'`);
    t.is(await refusal(addForeignIpam(call)), `${problem} | `);
    t.is(calls().length, 2);
  });
}

test('a plugin that says nothing understandable is quoted with its exit status', async (t) => {
  const { call, logs } = fake(t, 'echo oops >&2; exit 7');
  t.is(await refusal(addForeignIpam(call)), '999 plugin fake failed: oops (exit status 7) | ');
  t.deepEqual(logs, [
    'fake: oops',
    'fake: oops',
    'fake: DEL after a failed ADD: plugin fake failed: oops (exit status 7)',
  ]);
  const { call: killed } = fake(t, 'kill -9 $$');
  t.is(await refusal(callForeign('DEL', killed)), '999 plugin fake failed: it said nothing (SIGKILL) | ');
});

test('a plugin that does not end is killed, also when a child of it keeps its output open', async (t) => {
  const { call } = fake(t, 'sleep 20 & exec sleep 20');
  const since = performance.now();
  t.is(
    await refusal(callForeign('CHECK', { ...call, timeoutMs: 100 })),
    '11 plugin fake did not end CHECK within 100 ms | ',
  );
  t.true(performance.now() - since < 18_000);
});

test('a plugin that does not read its input is no trouble', async (t) => {
  const { call } = fake(t, 'exec <&-; exit 0');
  t.is(await refusal(callForeign('DEL', { ...call, configText: 'x'.repeat(1 << 20) })), 'done');
});

test('plugins are looked for in CNI_PATH only, and are files', async (t) => {
  const { call } = fake(t, '');
  const cniPath = call.env.get('CNI_PATH') ?? '';
  const [, folder = ''] = cniPath.split(':');
  mkdirSync(join(folder, 'directory'));
  t.is(await findPlugin('fake', cniPath), join(folder, 'fake'));
  const find = (type: string, path = cniPath) => refusal(findPlugin(type, path));
  t.is(await find(''), '7 no plugin name provided | ');
  t.is(await find('../fake'), '7 invalid plugin name: ../fake | ');
  t.is(await find('..'), '7 invalid plugin name: .. | ');
  t.is(await find('directory'), `7 failed to find plugin "directory" in path [/nonexistent ${folder}] | `);
  t.is(await find('fake', ''), '7 failed to find plugin "fake" in path [] | ');
});
