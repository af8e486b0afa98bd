import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { addForeignIpam, callForeign, type ForeignCall } from '../../cni/foreign-ipam.ts';
import { HostLocal } from '../../cni/host-local.ts';
import { HostLocalImport } from '../../cni/host-local-import.ts';
import { type AttachmentRequest, parseRequest } from '../../cni/request.ts';
import { renderResult } from '../../cni/result.ts';
import { MemoryLeases } from '../cni/memory-leases.ts';
import { factOf, missingProgram } from './missing.ts';

// The reference plugins as Debian installs them: no double of theirs can say how they behave.
const reference = '/usr/lib/cni';
const referenceTest = factOf(missingProgram(join(reference, 'host-local')), test);

/** A folder for host-local's files, and calls of it. */
function lab(t: ExecutionContext) {
  const dataDir = mkdtempSync('/tmp/fairlead-test-');
  t.teardown(() => rmSync(dataDir, { recursive: true }));
  const call = (ipam: object, options: { id?: string; args?: string; config?: object } = {}): ForeignCall => {
    const { id = 'box', args = '', config = {} } = options;
    return {
      type: (ipam as { type?: string }).type ?? 'host-local',
      env: new Map([
        ['CNI_COMMAND', 'ADD'],
        ['CNI_CONTAINERID', id],
        ['CNI_NETNS', '/run/netns/none'],
        ['CNI_IFNAME', 'eth0'],
        ['CNI_ARGS', args],
        ['CNI_PATH', reference],
      ]),
      configText: JSON.stringify({
        cniVersion: '1.0.0',
        name: 'cbr0',
        type: 'bridge',
        ipam: { type: 'host-local', dataDir, ...ipam },
        ...config,
      }),
    };
  };
  return { dataDir, call, files: () => readdirSync(join(dataDir, 'cbr0')).sort() };
}

async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return error instanceof CniError ? error.message : String(error);
}

const dual = {
  ranges: [[{ subnet: '10.1.0.0/29' }], [{ subnet: 'fd00::/64' }]],
  routes: [{ dst: '0.0.0.0/0' }],
};

referenceTest('the reference host-local gives addresses to us, and takes them back', async (t) => {
  const { call, files } = lab(t);
  const { ips, routes } = await addForeignIpam(call(dual));
  t.deepEqual(ips as unknown, [
    { address: '10.1.0.2/29', gateway: '10.1.0.1' },
    { address: 'fd00::2/64', gateway: 'fd00::1' },
  ]);
  t.is(routes.length, 1);
  await callForeign('CHECK', call(dual));
  await callForeign('DEL', call(dual));
  t.deepEqual(
    files().filter((name) => name.includes('.0.') || name.includes(':')),
    [],
  );
  t.regex(await refusal(callForeign('CHECK', call(dual))), /Failed to find address added by container box/);
});

referenceTest('what the reference host-local refuses is told as it says it', async (t) => {
  const { call } = lab(t);
  t.is(await refusal(addForeignIpam(call({}))), 'no IP ranges specified');
  t.is(
    await refusal(addForeignIpam(call(dual, { args: 'IP=10.1.0.1' }))),
    "failed to allocate for range 0: requested ip 10.1.0.1 is subnet's gateway",
  );
});

referenceTest(
  'the reference static gives what it is told; without addresses its result is refused',
  async (t) => {
    const { call } = lab(t);
    const addresses = [{ address: '10.9.0.7/16', gateway: '10.9.0.1' }];
    const { ips } = await addForeignIpam(call({ type: 'static', addresses }));
    t.deepEqual(ips as unknown, addresses);
    t.is(await refusal(addForeignIpam(call({ type: 'static' }))), 'IPAM plugin returned missing IP config');
    await callForeign('DEL', call({ type: 'static' }));
  },
);

/** What our own host-local answers to the same call, with the addresses given so far. */
function ours(leases: MemoryLeases) {
  const imports = new HostLocalImport({ leases, onReport: () => {} });
  const hostLocal = new HostLocal({ leases, imports });
  return async ({ env, configText }: ForeignCall): Promise<unknown> => {
    const request = parseRequest(env, Buffer.from(configText));
    if (request instanceof CniError) return request.message;
    try {
      const { cniVersion } = request as AttachmentRequest;
      const result = await hostLocal.add(request as AttachmentRequest);
      const text = renderResult({ interfaces: [], ...result }, cniVersion);
      return text instanceof CniError ? text.message : JSON.parse(text);
    } catch (error) {
      return (error as Error).message;
    }
  };
}

/** What the reference prints, as it prints it. */
function theirs({ env, configText }: ForeignCall): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const child = execFile(
      join(reference, 'host-local'),
      { env: Object.fromEntries(env) },
      (error, stdout) => {
        if (stdout === '') return reject(error);
        const printed = JSON.parse(stdout);
        resolve(error === null ? printed : printed.msg);
      },
    );
    child.stdin?.end(configText);
  });
}

const calls: [ipam: object, options?: { id?: string; args?: string; config?: object }][] = [
  [dual, { id: 'a' }],
  [dual, { id: 'b' }],
  [dual, { id: 'b' }],
  [dual, { id: 'c', args: 'IP=10.1.0.5' }],
  [dual, { id: 'd', args: 'IP=10.1.0.5' }],
  [dual, { id: 'd', args: 'IP=10.1.0.1' }],
  [dual, { id: 'd', args: 'IP=10.7.0.1' }],
  [dual, { id: 'e', config: { args: { cni: { ips: ['10.1.0.4/29', 'fd00::5'] } } } }],
  [dual, { id: 'f', config: { runtimeConfig: { ips: ['10.1.0.6'] } } }],
  [dual, { id: 'g', config: { cniVersion: '0.2.0' } }],
  [dual, { id: 'h', config: { cniVersion: '0.2.0' } }],
  [{ ranges: [] }, { id: 'i' }],
  [{ subnet: '10.2.0.0/24', rangeStart: '10.2.0.9', rangeEnd: '10.2.0.9', gateway: '10.2.0.5' }, { id: 'j' }],
  [{ subnet: '10.2.0.0/24', rangeStart: '10.2.0.9', rangeEnd: '10.2.0.9', gateway: '10.2.0.5' }, { id: 'k' }],
  [
    { subnet: '10.3.0.0/24', gateway: '169.254.1.1' },
    { id: 'l', config: { cniVersion: '0.4.0' } },
  ],
  [
    { ranges: [[{ subnet: '10.4.0.0/24' }], [{ subnet: '10.5.0.0/24' }]] },
    { id: 'm', config: { cniVersion: '0.2.0' } },
  ],
  [
    { ranges: [[{ subnet: '10.4.0.0/24' }], [{ subnet: '10.5.0.0/24' }]] },
    { id: 'n', config: { cniVersion: '0.3.1' } },
  ],
  [
    { subnet: '10.6.0.0/24' },
    {
      id: 'o',
      config: { runtimeConfig: { ipRanges: [[{ subnet: '10.8.0.0/24', rangeStart: '10.8.0.7' }]] } },
    },
  ],
];

/** Debian's reference, of 2022, prints an empty dns in every version; later ones, as ours, only before 1.0.0. */
function withDns(answer: unknown): unknown {
  return typeof answer === 'string' ? answer : { dns: {}, ...(answer as object) };
}

referenceTest('our host-local answers each call as the reference does', async (t) => {
  const { call } = lab(t);
  const own = ours(new MemoryLeases());
  for (const [ipam, options] of calls) {
    const name = JSON.stringify([ipam, options]);
    const reference = await theirs(call(ipam, options));
    // Ours has the files of the reference not to see: a folder of its own.
    const answer = await own(call({ ...ipam, dataDir: '/nonexistent' }, options));
    t.deepEqual(withDns(answer), reference, name);
  }
});

const wrongRanges: [ranges: object, text: string][] = [
  [[[{ subnet: '10.1.0.0/31' }]], 'Network 10.1.0.0/31 too small to allocate from'],
  [
    [[{ subnet: '10.1.0.9/24' }]],
    'Network has host bits set. For a subnet mask of length 24 the network address is 10.1.0.0',
  ],
  [[[{ subnet: '10.1.0.0/24', rangeStart: '10.2.0.1' }]], 'RangeStart 10.2.0.1 not in network 10.1.0.0/24'],
  [[[{ subnet: '10.1.0.0/24', rangeEnd: '10.2.0.1' }]], 'RangeEnd 10.2.0.1 not in network 10.1.0.0/24'],
  [[[]], 'invalid range set 0: empty range set'],
  [[[{ subnet: '10.1.0.0/24' }, { subnet: 'fd00::/64' }]], 'invalid range set 0: mixed address families'],
  [
    [[{ subnet: '10.1.0.0/24' }, { subnet: '10.1.0.0/25' }]],
    'invalid range set 0: subnets 10.1.0.1-10.1.0.254 and 10.1.0.1-10.1.0.126 overlap',
  ],
  [
    [[{ subnet: '10.1.0.0/24' }], [{ subnet: 'fd00::/64' }], [{ subnet: '10.1.0.0/16' }]],
    'range set 0 overlaps with 2',
  ],
];

referenceTest('both refuse the same ranges in the same words', async (t) => {
  const { call } = lab(t);
  const own = ours(new MemoryLeases());
  for (const [ranges, text] of wrongRanges) {
    t.true(String(await theirs(call({ ranges }))).includes(text), `the reference: ${text}`);
    t.true(String(await own(call({ ranges }))).includes(text), `ours: ${text}`);
  }
});

referenceTest(
  'the files of the reference are taken over: DEL frees them, nobody else gets them',
  async (t) => {
    const { call, files, dataDir } = lab(t);
    for (const id of ['a', 'b']) await addForeignIpam(call(dual, { id }));
    const leases = new MemoryLeases();
    const own = ours(leases);
    t.like(await own(call(dual, { id: 'c' })), {
      ips: [{ address: '10.1.0.4/29' }, { address: 'fd00::4/64' }],
    });
    t.deepEqual(leases.lines(), [
      'cbr0/a/eth0 10.1.0.2,fd00::2',
      'cbr0/b/eth0 10.1.0.3,fd00::3',
      'cbr0/c/eth0 10.1.0.4,fd00::4',
    ]);
    t.deepEqual(files(), ['last_reserved_ip.0', 'last_reserved_ip.1', 'lock']);
    const imports = new HostLocalImport({ leases, onReport: () => t.fail('there is nothing to report') });
    const hostLocal = new HostLocal({ leases, imports });
    const { env, configText } = call(dual, { id: 'a' });
    const del = parseRequest(new Map([...env, ['CNI_COMMAND', 'DEL']]), Buffer.from(configText));
    await hostLocal.del(del as AttachmentRequest);
    t.is(leases.lines().length, 2);
    t.is(await imports.ensure('cbr0', foldKeys({ ipam: { dataDir } })), true);
  },
);
