import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { parseResult } from '../../cni/prev-result.ts';
import { type Result, renderResult } from '../../cni/result.ts';
import { type CniVersion, isAtLeast, supportedVersions } from '../../cni/version.ts';
import { familyOf, networkOf, parseHostCidr, parseIp } from '../../core/address.ts';

// A result written in a version and read again has all that the version knows, and nothing else.

function defined<T>(value: T | undefined): value is T {
  return value !== undefined;
}

const anyIpText = fc.oneof(fc.ipV4(), fc.ipV6());
const anyIp = anyIpText.map(parseIp).filter(defined);
const anyHostCidr = fc
  .oneof(
    fc.tuple(fc.ipV4(), fc.nat(32)).map((both) => both.join('/')),
    fc.tuple(fc.ipV6(), fc.nat(128)).map((both) => both.join('/')),
  )
  .map(parseHostCidr)
  .filter(defined);
const positive = fc.integer({ min: 1, max: 2 ** 32 - 1 });
const optional = <T>(one: fc.Arbitrary<T>) => fc.option(one, { nil: undefined });
const anyName = fc.string({ minLength: 1, unit: 'binary' });

const anyResult: fc.Arbitrary<Result> = fc.record({
  interfaces: fc.array(
    fc.record({
      name: fc.string(),
      mac: optional(anyName),
      mtuBytes: optional(positive),
      sandbox: optional(anyName),
      socketPath: optional(anyName),
      pciId: optional(anyName),
    }),
    { maxLength: 4 },
  ),
  ips: fc.array(
    fc.record({ address: anyHostCidr, gateway: optional(anyIp), interface: optional(fc.nat(9)) }),
    { maxLength: 5 },
  ),
  routes: fc.array(
    fc.record({
      destination: anyHostCidr.map(networkOf),
      gateway: optional(anyIp),
      mtuBytes: optional(positive),
      advertisedMss: optional(positive),
      priority: optional(positive),
      table: optional(fc.nat()),
      scope: optional(fc.nat(255)),
    }),
    { maxLength: 5 },
  ),
  dns: fc.record({
    nameservers: fc.array(fc.string()),
    domain: optional(anyName),
    search: fc.array(fc.string()),
    options: fc.array(fc.string()),
  }),
});

/** What the tables of the specifications say that the version can say. */
function known(result: Result, version: CniVersion): Result {
  if (isAtLeast(version, '1.1.0')) return result;
  const routes = result.routes.map(({ destination, gateway }) => ({ destination, gateway }));
  if (isAtLeast(version, '0.3.0')) {
    const interfaces = result.interfaces.map(({ name, mac, sandbox }) => ({ name, mac, sandbox }));
    return { ...result, interfaces, routes };
  }
  const firsts = ([4, 6] as const)
    .map((family) => result.ips.find(({ address }) => familyOf(address) === family))
    .filter(defined);
  return {
    interfaces: [],
    ips: firsts.map(({ address, gateway }) => ({ address, gateway })),
    routes: firsts.flatMap(({ address }) =>
      routes.filter(({ destination }) => familyOf(destination) === familyOf(address)),
    ),
    dns: result.dns,
  };
}

/** Written and read again; the text of the refusal of what cannot be written. */
function passed(result: Result, version: CniVersion): Result | string {
  const text = renderResult(result, version);
  if (text instanceof CniError) return text.message;
  const fields = foldKeys(JSON.parse(text) as Record<string, unknown>);
  const read = parseResult(fields, version);
  if (read instanceof CniError) throw read;
  return read;
}

/** Absent and undefined are the same. */
function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

const refusal = 'cannot convert: no valid IP addresses';

function wanted(result: Result, version: CniVersion): Result | string {
  return isAtLeast(version, '0.3.0') === true || result.ips.length > 0 ? known(result, version) : refusal;
}

for (const version of supportedVersions) {
  test(`a result in ${version} has what that version knows, and nothing else`, (t) => {
    fc.assert(
      fc.property(anyResult, (result) => {
        t.deepEqual(plain(passed(result, version)), plain(wanted(result, version)));
      }),
    );
  });

  test(`a result that came in ${version} keeps what every other version knows, too`, (t) => {
    fc.assert(
      fc.property(anyResult, fc.constantFrom(...supportedVersions), (result, other) => {
        const once = passed(result, version);
        if (typeof once === 'string') return;
        t.deepEqual(plain(passed(once, other)), plain(wanted(known(result, version), other)));
      }),
    );
  });
}

test('a result is one JSON object that names its version', (t) => {
  fc.assert(
    fc.property(anyResult, fc.constantFrom(...supportedVersions), (result, version) => {
      const text = renderResult(result, version);
      if (text instanceof CniError) return;
      t.is(JSON.parse(text).cniVersion, version);
      t.false(text.includes('\n'));
    }),
  );
});

test('whatever claims to be a result is read or refused', (t) => {
  const key = fc.constantFrom('cniVersion', 'interfaces', 'ips', 'ip4', 'ip6', 'routes', 'dns');
  const value = fc.oneof(fc.jsonValue(), fc.constantFrom(...supportedVersions));
  const property = fc.property(
    fc.dictionary(key, value),
    fc.constantFrom(...supportedVersions),
    (fields, version) => {
      const read = parseResult(foldKeys(fields), version);
      return !(read instanceof CniError) || read.code === 6;
    },
  );
  t.notThrows(() => fc.assert(property, { numRuns: 1_000 }));
});
