import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import type { Result } from '../../../cni/result.ts';
import {
  addBandwidthInterface,
  type BandwidthCall,
  type BandwidthConfig,
  parseBandwidth,
  planBandwidth,
} from '../../../cni/types/bandwidth.ts';

const parse = (config: Record<string, unknown>) => parseBandwidth(foldKeys(config));

function messageOf(value: unknown): string {
  return value instanceof CniError ? value.message : `no error: ${JSON.stringify(value)}`;
}

const ingress = { ingressRate: 8_000_000, ingressBurst: 80_000 };
const egress = { egressRate: 16_000, egressBurst: 160 };
const parsedIngress = { rateBytes: 1_000_000, burstBytes: 10_000 };
const parsedEgress = { rateBytes: 2000, burstBytes: 20 };

test('bits become bytes, for each direction alone or for both', (t) => {
  t.deepEqual(parse(ingress), { ingress: parsedIngress, egress: undefined });
  t.deepEqual(parse(egress), { ingress: undefined, egress: parsedEgress });
  t.deepEqual(parse({ ...ingress, ...egress }), { ingress: parsedIngress, egress: parsedEgress });
});

test('no limit is no error, written as 0 or not at all', (t) => {
  const none = { ingress: undefined, egress: undefined };
  for (const config of [
    {},
    { ingressRate: 0, ingressBurst: 0 },
    { runtimeConfig: {} },
    { runtimeConfig: null },
  ]) {
    t.deepEqual(parse(config), none);
  }
});

test("the runtime's limits count only where the configuration itself has none at all", (t) => {
  const runtimeConfig = { bandwidth: { ...ingress, ...egress } };
  t.deepEqual(parse({ runtimeConfig }), { ingress: parsedIngress, egress: parsedEgress });
  t.deepEqual(parse({ ...egress, runtimeConfig }), { ingress: undefined, egress: parsedEgress });
  t.deepEqual(parse({ ingressRate: 0, runtimeConfig }), { ingress: undefined, egress: undefined });
});

test('keys are read in any case', (t) => {
  t.deepEqual(parse({ INGRESSRATE: 8_000_000, ingressburst: 80_000 }), {
    ingress: parsedIngress,
    egress: undefined,
  });
});

const refusals: readonly (readonly [what: string, config: Record<string, unknown>, message: string])[] = [
  ['a rate without a burst', { ingressRate: 1 }, 'if rate is set, burst must also be set'],
  ['a rate without a burst on the way out', { egressRate: 1 }, 'if rate is set, burst must also be set'],
  ['a burst without a rate', { egressBurst: 8 }, 'if burst is set, rate must also be set'],
  [
    'a burst that no kernel takes',
    { ingressRate: 8, ingressBurst: 8 * (2 ** 32 - 1) },
    'burst cannot be more than 4GB',
  ],
  [
    'a rate that is text',
    { ingressRate: '1M', ingressBurst: 1 },
    'failed to parse network configuration: ingressRate: must be a whole number from 0 to 9007199254740991, not "1M"',
  ],
  [
    'a negative rate of the runtime',
    { runtimeConfig: { bandwidth: { egressRate: -1, egressBurst: 1 } } },
    'failed to parse network configuration: runtimeConfig.bandwidth.egressRate: must be a whole number from 0 to 9007199254740991, not -1',
  ],
  [
    'limits for some addresses only',
    { ...ingress, unshapedSubnets: ['10.0.0.0/8'] },
    'failed to parse network configuration: unshapedSubnets: limits for some addresses only are not supported',
  ],
];

for (const [what, config, message] of refusals) {
  test(`${what} is refused`, (t) => {
    const refused = parse(config);
    t.is(messageOf(refused), message);
    t.is((refused as CniError).code, 7);
  });
}

test('the largest burst is taken', (t) => {
  const config = parse({ ingressRate: 8, ingressBurst: 8 * (2 ** 32 - 1) - 1 }) as BandwidthConfig;
  t.is(config.ingress?.burstBytes, 2 ** 32 - 2);
});

test('less than a byte is a byte: the limit holds', (t) => {
  t.deepEqual((parse({ ingressRate: 7, ingressBurst: 1 }) as BandwidthConfig).ingress, {
    rateBytes: 1,
    burstBytes: 1,
  });
});

const previous: Result = {
  interfaces: [
    { name: 'cni0' },
    { name: 'veth1' },
    { name: 'eth0', sandbox: '/run/netns/pod' },
    { name: 'inside', sandbox: '/run/netns/pod' },
  ],
  ips: [],
  routes: [],
  dns: { nameservers: [], search: [], options: [] },
};
const call: BandwidthCall = {
  network: 'net',
  containerId: 'abc',
  ifname: 'eth0',
  previous,
  peer: { index: 7, name: 'veth1', mtuBytes: 1450 },
};
const both: BandwidthConfig = { ingress: parsedIngress, egress: parsedEgress };

test('the limits are on the end of the pair in the node, and what is sent gets a link of its own', (t) => {
  const rows = planBandwidth(both, call);
  if (rows instanceof CniError) return t.fail(rows.message);
  const [row] = rows.qdiscs;
  t.is(rows.qdiscs.length, 1);
  t.like(row, { device: 'veth1', transmit: parsedIngress });
  t.like(row?.receive, { ...parsedEgress, mtuBytes: 1450 });
  t.regex(row?.receive?.ifb ?? '', /^bwp[0-9a-f]{12}$/);
  t.regex(row?.receive?.mac ?? '', /^02(:[0-9a-f]{2}){5}$/);
  t.deepEqual(addBandwidthInterface(previous, rows).interfaces, [
    ...previous.interfaces,
    { name: row?.receive?.ifb, mac: row?.receive?.mac },
  ]);
  t.deepEqual(planBandwidth(both, call), rows);
});

test('without a limit on what is sent the result stays as it is', (t) => {
  const rows = planBandwidth({ ingress: parsedIngress }, call);
  if (rows instanceof CniError) return t.fail(rows.message);
  t.deepEqual(rows.qdiscs, [{ device: 'veth1', transmit: parsedIngress, receive: undefined }]);
  t.is(addBandwidthInterface(previous, rows), previous);
});

test('without any limit there is nothing to do, chained or not', (t) => {
  t.deepEqual(planBandwidth({}, { ...call, previous: undefined, peer: undefined }), { qdiscs: [] });
});

test('each interface of each container of each network has a link of its own', (t) => {
  const calls = [
    {},
    { ifname: 'eth1' },
    { containerId: 'abd' },
    { network: 'ne' },
    { network: 'neta', containerId: 'bc' },
  ];
  const names = calls.map((change) => {
    const rows = planBandwidth(both, { ...call, ...change });
    return rows instanceof CniError ? rows.message : rows.qdiscs[0]?.receive?.ifb;
  });
  t.is(new Set(names).size, calls.length);
});

const places: readonly (readonly [change: Partial<BandwidthCall>, message: string])[] = [
  [{ previous: undefined }, 'must be called as chained plugin'],
  [{ previous: { ...previous, interfaces: [] } }, 'no interfaces provided'],
  [{ peer: undefined }, 'container interface eth0 has no veth peer'],
  [{ peer: { index: 7 } }, 'veth peer with index 7 is not in host ns'],
  [{ peer: { index: 7, name: 'veth2' } }, 'no veth peer of container interface found in host ns'],
];

for (const [change, message] of places) {
  test(`an attachment that cannot be limited is refused: ${message}`, (t) => {
    t.is(messageOf(planBandwidth(both, { ...call, ...change })), message);
  });
}

test('an interface that the result tells in a container is no end in the node', (t) => {
  const refused = planBandwidth(both, { ...call, peer: { index: 7, name: 'inside' } });
  t.is(messageOf(refused), 'no veth peer of container interface found in host ns');
});

test('any configuration is taken or refused with a text', (t) => {
  const key = fc.constantFrom(
    'ingressRate',
    'ingressBurst',
    'egressRate',
    'egressBurst',
    'runtimeConfig',
    'x',
  );
  const config = fc.dictionary(
    key,
    fc.oneof(fc.jsonValue(), fc.nat(), fc.record({ bandwidth: fc.jsonValue() })),
  );
  fc.assert(
    fc.property(config, (value) => {
      const parsed = parse(value as Record<string, unknown>);
      if (parsed instanceof CniError) return t.not(parsed.message, '');
      for (const shaper of [parsed.ingress, parsed.egress]) {
        if (shaper !== undefined) t.true(shaper.rateBytes >= 1 && shaper.burstBytes >= 1);
      }
    }),
  );
});
