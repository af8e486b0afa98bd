import test from 'ava';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import { Ipam } from '../../../cni/ipam.ts';
import { renderResult } from '../../../cni/result.ts';
import { parseHostLocal, planHostLocal, readDataDir } from '../../../cni/types/host-local.ts';
import type { CniVersion } from '../../../cni/version.ts';

const noDns = { nameservers: [], search: [], options: [] };

function parse(config: Record<string, unknown>, cniVersion: CniVersion = '1.0.0') {
  const parsed = parseHostLocal(foldKeys(config), cniVersion);
  return parsed instanceof CniError ? `${parsed.code} ${parsed.message}` : parsed;
}

/** What the first ADD answers. */
function answer(ipam: Record<string, unknown>, cniVersion: CniVersion): unknown {
  const config = parse({ ipam }, cniVersion);
  if (typeof config === 'string') return config;
  const given = new Ipam().grant('h', config.rangeSets);
  if ('kind' in given) return given;
  const text = renderResult({ interfaces: [], ...planHostLocal(config, given, noDns) }, cniVersion);
  return text instanceof CniError ? text.message : JSON.parse(text);
}

const dual = {
  ranges: [[{ subnet: '10.1.0.0/24', gateway: '10.1.0.254' }], [{ subnet: 'fd00::/64' }]],
  routes: [{ dst: '0.0.0.0/0' }, { dst: 'fd01::/48', gw: 'fd00::99' }],
};

test('the answer has addresses, gateways and routes, and no interfaces', (t) => {
  t.deepEqual(answer(dual, '1.1.0'), {
    cniVersion: '1.1.0',
    ips: [
      { address: '10.1.0.1/24', gateway: '10.1.0.254' },
      { address: 'fd00::2/64', gateway: 'fd00::1' },
    ],
    routes: [{ dst: '0.0.0.0/0' }, { dst: 'fd01::/48', gw: 'fd00::99' }],
  });
});

test('the answer in the shape before 0.3.0 has one address of each family with its routes', (t) => {
  t.deepEqual(answer(dual, '0.2.0'), {
    cniVersion: '0.2.0',
    ip4: { ip: '10.1.0.1/24', gateway: '10.1.0.254', routes: [{ dst: '0.0.0.0/0' }] },
    ip6: { ip: 'fd00::2/64', gateway: 'fd00::1', routes: [{ dst: 'fd01::/48', gw: 'fd00::99' }] },
    dns: {},
  });
});

test('without ranges, or with more than the version has room for, there is nothing to give', (t) => {
  const two = { ranges: [[{ subnet: '10.1.0.0/24' }], [{ subnet: '10.2.0.0/24' }]] };
  t.is(parse({}), "7 IPAM config missing 'ipam' key");
  t.is(parse({ ipam: {} }), '7 no IP ranges specified');
  t.is(parse({ ipam: two }, '0.2.0'), '7 CNI version 0.2.0 does not support more than 1 address per family');
  t.not(typeof parse({ ipam: two }, '0.3.0'), 'string');
  t.is(
    parse({ ipam: { ...two, subnet: '10.0.0.0/8', routes: [{}] } }),
    '7 invalid network config: ipam.ranges: range set 0 overlaps with 1; ipam.routes[0].dst: missing',
  );
});

test('what the runtime asks for and where dns is to be read from are kept', (t) => {
  const config = parse({
    ipam: { subnet: '10.1.0.0/24', resolvConf: '/run/resolv.conf' },
    args: { cni: { ips: ['10.1.0.9'] } },
  });
  t.like(config, { requested: ['10.1.0.9'], resolvConf: '/run/resolv.conf' });
});

test("host-local's folder is the usual one unless another is named, whatever else is wrong", (t) => {
  t.is(readDataDir(foldKeys({})), '/var/lib/cni/networks');
  t.is(readDataDir(foldKeys({ ipam: { dataDir: '', ranges: 7 } })), '/var/lib/cni/networks');
  t.is(readDataDir(foldKeys({ IPAM: { DATADIR: '/run/ipam', ranges: 7 } })), '/run/ipam');
});
