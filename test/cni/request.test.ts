import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../cni/error.ts';
import { parseRequest } from '../../cni/request.ts';

const add = {
  CNI_COMMAND: 'ADD',
  CNI_CONTAINERID: 'c1',
  CNI_NETNS: '/run/netns/c1',
  CNI_IFNAME: 'eth0',
  CNI_PATH: '/opt/cni/bin',
};
const config = { cniVersion: '1.0.0', name: 'net', type: 'fairlead' };

function parse(env: Record<string, string>, stdin: unknown = config) {
  const text = typeof stdin === 'string' ? stdin : JSON.stringify(stdin);
  return parseRequest(new Map(Object.entries(env)), Buffer.from(text));
}

/** "code message" or "code message / details" of a refusal; what was read otherwise. */
function outcome(env: Record<string, string>, stdin?: unknown): unknown {
  const request = parse(env, stdin);
  if (!(request instanceof CniError)) return request;
  return `${request.code} ${request.message}${request.details === '' ? '' : ` / ${request.details}`}`;
}

test('a complete ADD is read', (t) => {
  const request = outcome({ ...add, CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAME=web;X=1' });
  t.like(request, {
    verb: 'ADD',
    cniVersion: '1.0.0',
    network: 'net',
    containerId: 'c1',
    ifname: 'eth0',
    netns: '/run/netns/c1',
    netnsOverride: false,
    args: { podName: 'web' },
  });
});

test('all missing variables are named at once', (t) => {
  t.is(
    outcome({ CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c1', CNI_PATH: '/x', CNI_NETNS: '' }),
    '4 required env variables [CNI_NETNS,CNI_IFNAME] missing',
  );
  t.is(outcome({}), '4 required env variables [CNI_COMMAND] missing');
  t.is(
    outcome({ CNI_COMMAND: 'DEL' }),
    '4 required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing',
  );
  t.is(outcome({ CNI_COMMAND: 'GC' }), '4 required env variables [CNI_PATH] missing');
});

test('DEL needs no CNI_NETNS', (t) => {
  const { CNI_NETNS: _, ...env } = add;
  t.like(outcome({ ...env, CNI_COMMAND: 'DEL' }), { verb: 'DEL', netns: '' });
});

test('VERSION needs neither variables nor input', (t) => {
  t.deepEqual(outcome({ CNI_COMMAND: 'VERSION' }, 'not json'), { verb: 'VERSION' });
});

for (const [id, why] of [
  ['-c1', 'a hyphen first'],
  ['c/1', 'a slash'],
  ['c 1', 'a space'],
  ['ü', 'a letter outside ASCII'],
] as const) {
  test(`a container ID with ${why} is refused`, (t) => {
    t.is(outcome({ ...add, CNI_CONTAINERID: id }), `4 invalid characters in containerID / ${id}`);
  });
}

for (const [name, message] of [
  ['a234567890123456', 'interface name is too long / interface name should be less than 16 characters'],
  ['.', 'interface name is . or .. / .'],
  ['..', 'interface name is . or .. / ..'],
  ['a/b', 'interface name contains / or : or whitespace characters / a/b'],
  ['a:b', 'interface name contains / or : or whitespace characters / a:b'],
  ['a\tb', 'interface name contains / or : or whitespace characters / a\tb'],
] as const) {
  test(`the interface name ${JSON.stringify(name)} is refused`, (t) => {
    t.is(outcome({ ...add, CNI_IFNAME: name }), `4 CNI_IFNAME: ${message}`);
  });
}

test('a variable is only checked for the verbs that need it', (t) => {
  t.like(
    outcome({ CNI_COMMAND: 'STATUS', CNI_PATH: '/x', CNI_IFNAME: 'a/b' }, { ...config, cniVersion: '1.1.0' }),
    {
      verb: 'STATUS',
    },
  );
});

test('malformed input is code 6', (t) => {
  t.regex(String(outcome(add, '{"name":')), /^6 error unmarshall network config: /);
  t.regex(String(outcome(add, '')), /^6 /);
  t.regex(String(outcome(add, '[]')), /^6 .*must be an object/);
  t.is(outcome(add, { ...config, name: 5 }), '6 error unmarshall network config: name: must be text, not 5');
  t.regex(String(outcome(add, { ...config, cniVersion: {} })), /^6 .*cniVersion: must be text/);
});

test('a configuration without a usable name is code 7', (t) => {
  t.is(outcome(add, { cniVersion: '1.0.0' }), '7 missing network name');
  t.is(outcome(add, 'null'), '7 missing network name');
  t.is(outcome(add, { ...config, name: 'a b' }), '7 invalid characters found in network name / a b');
});

test('an unknown version is code 1 and names those that are known', (t) => {
  t.is(
    outcome(add, { ...config, cniVersion: '9.9.9' }),
    '1 incompatible CNI versions / config is "9.9.9", plugin supports ' +
      '["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]',
  );
});

test('a configuration without a version is of 0.1.0', (t) => {
  t.like(outcome(add, { name: 'net' }), { cniVersion: '0.1.0' });
});

test('CHECK, GC and STATUS need the version that brought them', (t) => {
  const check = { ...add, CNI_COMMAND: 'CHECK' };
  t.is(outcome(check, { ...config, cniVersion: '0.3.1' }), '1 config version does not allow CHECK');
  t.like(outcome(check, { ...config, cniVersion: '0.4.0' }), { verb: 'CHECK' });
  t.is(outcome({ ...add, CNI_COMMAND: 'GC' }), '1 config version does not allow GC');
  t.is(outcome({ ...add, CNI_COMMAND: 'STATUS' }), '1 config version does not allow STATUS');
  t.is(outcome(check, { ...config, cniVersion: '2.0.0' }), '1 plugin version does not allow CHECK');
  t.regex(String(outcome(check, { ...config, cniVersion: 'x' })), /^6 failed to parse version/);
});

test('an unknown verb is refused after the configuration was read', (t) => {
  t.is(outcome({ CNI_COMMAND: 'NOSUCH' }), '4 unknown CNI_COMMAND: NOSUCH');
  t.regex(String(outcome({ CNI_COMMAND: 'NOSUCH' }, '{')), /^6 /);
});

test('keys match in any case, and of equal keys the last wins', (t) => {
  t.like(outcome(add, '{"CNIVERSION":"0.4.0","Name":"a","name":"b","nAME":"c"}'), {
    network: 'c',
    cniVersion: '0.4.0',
  });
});

test('unknown keys are let pass', (t) => {
  t.like(outcome(add, { ...config, capabilities: { portMappings: true }, 'cni.dev/x': [] }), { verb: 'ADD' });
});

test('unknown CNI_ARGS are refused unless told to ignore them', (t) => {
  t.is(outcome({ ...add, CNI_ARGS: 'A=1;B=2' }), '4 CNI_ARGS: ARGS: unknown args ["A=1" "B=2"]');
  t.is(outcome({ ...add, CNI_ARGS: 'A' }), '4 CNI_ARGS: ARGS: invalid pair "A"');
  t.like(outcome({ ...add, CNI_ARGS: 'A=1;IgnoreUnknown=TRUE' }), { args: {} });
  t.like(outcome({ ...add, CNI_COMMAND: 'DEL', CNI_ARGS: 'A=1' }), { verb: 'DEL' });
});

test('types that take no CNI_ARGS let them pass', (t) => {
  for (const type of ['portmap', 'bandwidth', 'firewall', 'loopback']) {
    t.like(outcome({ ...add, CNI_ARGS: 'A=1;B' }, { ...config, type }), { args: {} });
  }
});

test('CNI_NETNS_OVERRIDE is 1 or TRUE in any case', (t) => {
  for (const value of ['1', 'true', 'TRUE']) {
    t.like(outcome({ ...add, CNI_NETNS_OVERRIDE: value }), { netnsOverride: true });
  }
  t.like(outcome({ ...add, CNI_NETNS_OVERRIDE: 'yes' }), { netnsOverride: false });
});

test('whatever comes in is read or refused with a code of the specification', (t) => {
  const verb = fc.constantFrom('ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION', 'X', '');
  const text = fc.oneof(fc.string({ unit: 'binary' }), fc.json(), fc.constantFrom('c1', 'eth0', ''));
  const env = fc.record({
    CNI_COMMAND: verb,
    CNI_CONTAINERID: text,
    CNI_NETNS: text,
    CNI_IFNAME: text,
    CNI_PATH: text,
  });
  fc.assert(
    fc.property(
      env,
      fc.oneof(
        fc.uint8Array(),
        fc.json().map((json) => Buffer.from(json)),
      ),
      (variables, stdin) => {
        const request = parseRequest(new Map(Object.entries(variables)), stdin);
        return !(request instanceof CniError) || [1, 4, 6, 7].includes(request.code);
      },
    ),
  );
  t.pass();
});
