import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import { parseBridge } from '../../../cni/types/bridge.ts';
import {
  delegateFlannel,
  type FlannelConfig,
  parseFlannel,
  parseSubnetEnv,
  planDelegate,
  readSubnetEnv,
  type SubnetEnv,
} from '../../../cni/types/flannel.ts';

const dual = `FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.3.1/24
FLANNEL_IPV6_NETWORK=fd00:10::/48
FLANNEL_IPV6_SUBNET=fd00:10:0:3::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
`;

function orMessage<T>(value: T | CniError): T | string {
  return value instanceof CniError ? `${value.code} ${value.message}` : value;
}

function parse(config: object): FlannelConfig | string {
  return orMessage(parseFlannel(foldKeys({ name: 'cbr0', cniVersion: '0.3.1', ...config })));
}

function delegate(config: object, env = dual) {
  const parsed = parse(config);
  const read = parseSubnetEnv(env, '/subnet.env');
  if (typeof parsed === 'string') return parsed;
  return orMessage(read instanceof CniError ? read : planDelegate(parsed, read));
}

function subnetEnv(t: ExecutionContext, text: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'flannel-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'subnet.env');
  writeFileSync(path, text);
  return path;
}

test("flannel's own conflist: bridge and host-local of this node", (t) => {
  t.deepEqual(delegate({ type: 'flannel', delegate: { hairpinMode: true, isDefaultGateway: true } }), {
    type: 'bridge',
    config: {
      name: 'cbr0',
      cniVersion: '0.3.1',
      type: 'bridge',
      hairpinMode: true,
      isDefaultGateway: true,
      isGateway: true,
      ipMasq: false,
      mtu: 1450,
      ipam: {
        type: 'host-local',
        ranges: [[{ subnet: '10.244.3.0/24' }], [{ subnet: 'fd00:10:0:3::/64' }]],
        routes: [{ dst: '10.244.0.0/16' }, { dst: 'fd00:10::/48' }],
      },
    },
  });
});

test('the delegate of that is read by its own type', (t) => {
  const subnetFile = subnetEnv(t, dual);
  const config = { subnetFile, name: 'cbr0', delegate: { hairpinMode: true, isDefaultGateway: true } };
  const delegated = delegateFlannel(foldKeys(config));
  if (delegated instanceof CniError) return t.fail(delegated.message);
  t.deepEqual(foldKeys(JSON.parse(delegated.configText)), delegated.config);
  const input = { cniVersion: '0.3.1', args: {}, configText: '' } as const;
  t.like(orMessage(parseBridge(delegated.config, input, 'bridge')), {
    bridge: 'cni0',
    mtuBytes: 1450,
    isGateway: true,
    isDefaultGateway: true,
    hairpin: true,
    masquerade: false,
    ipam: { kind: 'own', rangeSets: [[{ subnet: '10.244.3.0/24' }], [{ subnet: 'fd00:10:0:3::/64' }]] },
    routes: [{ destination: '10.244.0.0/16' }, { destination: 'fd00:10::/48' }],
  } as never);
});

test('a changed subnet.env is another configuration of the delegate', (t) => {
  const subnetFile = subnetEnv(t, dual);
  const call = () => delegateFlannel(foldKeys({ subnetFile, name: 'cbr0' }));
  const before = call();
  writeFileSync(subnetFile, dual.replace('10.244.3.1', '10.244.7.1'));
  const after = call();
  if (before instanceof CniError || after instanceof CniError) return t.fail();
  t.not(before.configText, after.configText);
  t.true(after.configText.includes('10.244.7.0/24'));
});

test('what the user gave for the delegate stays', (t) => {
  const given = { type: 'bridge', bridge: 'br1', mtu: 1400, ipMasq: true, isGateway: false };
  t.like(delegate({ delegate: given }), { type: 'bridge', config: given });
});

test('the agent that does not masquerade leaves it to the plugin', (t) => {
  t.like(delegate({}, dual.replace('IPMASQ=true', 'IPMASQ=false')), { config: { ipMasq: true } });
});

test('another delegate is no gateway unless it says so', (t) => {
  const planned = delegate({ delegate: { type: 'ptp' } });
  t.like(planned, { type: 'ptp' });
  t.false(JSON.stringify(planned).includes('isGateway'));
});

test("the user's address management: type and other keys stay, ranges are the node's, routes come first", (t) => {
  const ipam = { dataDir: '/x', ranges: 'y', routes: [{ dst: '0.0.0.0/0' }] };
  t.like(delegate({ ipam }), {
    config: {
      ipam: {
        type: 'host-local',
        dataDir: '/x',
        ranges: [[{ subnet: '10.244.3.0/24' }], [{ subnet: 'fd00:10:0:3::/64' }]],
        routes: [{ dst: '0.0.0.0/0' }, { dst: '10.244.0.0/16' }, { dst: 'fd00:10::/48' }],
      },
    },
  } as never);
  t.like(delegate({ ipam: { type: 'mine' } }), { config: { ipam: { type: 'mine' } } });
  t.is(delegate({ ipam: { routes: 5 } }), '7 failed to parse ipam.routes: must be a list, not 5');
});

test('runtimeConfig is passed on, a missing version is not', (t) => {
  const runtimeConfig = { mac: '02:00:00:00:00:01' };
  t.like(delegate({ runtimeConfig }), { config: { runtimeConfig } });
  t.false(JSON.stringify(delegate({ cniVersion: '' })).includes('cniVersion'));
});

for (const [value, text] of [
  [{ name: 'x' }, "'delegate' dictionary must not have 'name' field, it'll be set by flannel"],
  [{ ipam: {} }, "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel"],
  [{ type: 5 }, "'delegate' dictionary, if present, must have (string) 'type' field"],
] as const) {
  test(`the delegate ${JSON.stringify(value)} is refused`, (t) => {
    t.is(parse({ delegate: value }), `7 ${text}`);
  });
}

test('keys of the wrong kind are refused with their path', (t) => {
  t.is(
    parse({ delegate: 5, subnetFile: 7 }),
    '7 invalid network config: delegate: must be an object, not 5; subnetFile: must be text, not 7',
  );
});

test('several networks with commas, one route each', (t) => {
  const env = dual
    .replace('10.244.0.0/16', '10.244.0.0/16,10.245.0.0/16')
    .replace('::/48', '::/48,fd01::/48');
  t.like(delegate({}, env), {
    config: {
      ipam: {
        routes: [
          { dst: '10.244.0.0/16' },
          { dst: '10.245.0.0/16' },
          { dst: 'fd00:10::/48' },
          { dst: 'fd01::/48' },
        ],
      },
    },
  } as never);
});

test('one family is enough', (t) => {
  const v4 = dual.replace(/^FLANNEL_IPV6.*\n/gm, '');
  t.deepEqual(parseSubnetEnv(v4, '/e'), {
    networks: ['10.244.0.0/16'],
    subnets: ['10.244.3.0/24'],
    mtuBytes: 1450,
    ipMasq: true,
  } as unknown as SubnetEnv);
});

const load = "11 failed to load flannel 'subnet.env' file:";
const hint = 'Check the flannel pod log for this node.';

test('all that is missing is named', (t) => {
  t.is(
    orMessage(parseSubnetEnv('', '/e')) as string,
    `${load} /e is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, ` +
      `FLANNEL_MTU, FLANNEL_IPMASQ. ${hint}`,
  );
  t.is(
    orMessage(parseSubnetEnv(dual.replace(/^FLANNEL_MTU.*\n/m, ''), '/e')) as string,
    `${load} /e is missing FLANNEL_MTU. ${hint}`,
  );
});

test('what is not an address or a number is named', (t) => {
  const bad = dual.replace('10.244.3.1/24', 'x').replace('1450', 'y').replace('fd00:10::/48', '10.0.0.0/8');
  t.is(
    orMessage(parseSubnetEnv(bad, '/e')) as string,
    `${load} FLANNEL_IPV6_NETWORK: invalid CIDR address: 10.0.0.0/8; ` +
      `FLANNEL_SUBNET: invalid CIDR address: x; FLANNEL_MTU: no number: y. ${hint}`,
  );
});

test('the file is read where subnetFile says; one that is not there yet may be there later', (t) => {
  t.like(parse({}), { subnetFile: '/run/flannel/subnet.env' });
  const path = subnetEnv(t, dual);
  t.like(readSubnetEnv(path), { mtuBytes: 1450 });
  t.is(
    orMessage(readSubnetEnv(`${path}2`)) as string,
    `${load} open ${path}2: no such file or directory. ${hint}`,
  );
});
