import { networkOf, parseHostCidr, parseIp } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import { readDns } from './config.ts';
import { CniError, cniCode } from './error.ts';
import { FieldReader, type Fields, foldKeys, isObject } from './fields.ts';
import type { Result, ResultAddress, ResultInterface } from './result.ts';
import type { CniVersion } from './version.ts';

/** Versions whose results have the same shape: each can be read where another is expected. */
const shapes: readonly (readonly CniVersion[])[] = [
  ['0.1.0', '0.2.0'],
  ['0.3.0', '0.3.1', '0.4.0'],
  ['1.0.0', '1.1.0'],
];
const u32Most = 2 ** 32 - 1;
const i32Most = 2 ** 31 - 1;

/**
 * `prevResult` of a configuration, written in the configuration's version, in the shape of the newest. Undefined when
 * there is none. A result that says that it is of another shape is refused.
 */
export function parsePrevResult(config: Fields, version: CniVersion): Result | undefined | CniError {
  const value = config.get('prevresult');
  if (value === undefined) return undefined;
  if (!isObject(value)) return refuse(`must be an object, not ${JSON.stringify(value)}`);
  const fields = foldKeys(value);
  // An empty object is what some runtimes write for none.
  return fields.size === 0 ? undefined : parseResult(fields, version);
}

/** A result in the shape of the version. */
export function parseResult(fields: Fields, version: CniVersion): Result | CniError {
  const shape = shapes.find((one) => one.includes(version)) ?? [];
  const problems: Problem[] = [];
  const reader = new FieldReader(fields, problems);
  const declared = reader.text('cniVersion') ?? '';
  if (declared !== '' && !(shape as readonly string[]).includes(declared)) {
    const known = shape.join(' ');
    return refuse(
      `result type supports [${known}] but unmarshalled CNIVersion is ${JSON.stringify(declared)}`,
    );
  }
  const result = shape.includes('0.1.0') ? readLegacy(reader) : readModern(reader);
  if (problems.length === 0) return result;
  return refuse(problems.map(({ path, message }) => `${path}: ${message}`).join('; '));
}

/** What a plugin printed: a result in the shape of the version. */
export function parsePrinted(text: string, version: CniVersion): Result | CniError {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return parseResult(foldKeys(value), version);
  } catch {}
  return refuse(`must be an object, not ${JSON.stringify(text.slice(0, 200))}`);
}

function refuse(why: string): CniError {
  return new CniError(cniCode.decodingFailure, `could not parse prevResult: ${why}`);
}

function readModern(reader: FieldReader): Result {
  return {
    interfaces: entries(reader, 'interfaces').flatMap((fields) => readInterface(fields)),
    ips: entries(reader, 'ips').flatMap((fields) => readAddress(fields, 'address')),
    routes: readRoutes(reader),
    dns: readDns(reader.object('dns')),
  };
}

function readLegacy(reader: FieldReader): Result {
  const families = [reader.object('ip4'), reader.object('ip6')];
  return {
    interfaces: [],
    ips: families.flatMap((family) => (family.has('ip') ? readAddress(family, 'ip') : [])),
    routes: families.flatMap(readRoutes),
    dns: readDns(reader.object('dns')),
  };
}

function entries(reader: FieldReader, key: string): FieldReader[] {
  return reader.list(key).flatMap((entry, index) => reader.entry(`${key}[${index}]`, entry) ?? []);
}

function readInterface(fields: FieldReader): ResultInterface {
  return {
    name: fields.text('name') ?? '',
    mac: nonEmpty(fields.text('mac')),
    mtuBytes: fields.integer('mtu', 0, u32Most) || undefined,
    sandbox: nonEmpty(fields.text('sandbox')),
    socketPath: nonEmpty(fields.text('socketPath')),
    pciId: nonEmpty(fields.text('pciID')),
  };
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}

function readAddress(fields: FieldReader, key: string): ResultAddress[] {
  const address = fields.parsed(key, 'an address such as 10.1.0.2/24', parseHostCidr);
  const gateway = fields.parsed('gateway', 'an IP address', parseIp);
  const index = fields.integer('interface', -i32Most, i32Most);
  if (address === undefined) {
    if (!fields.has(key)) fields.problem(key, 'missing');
    return [];
  }
  return [{ address, gateway, interface: index }];
}

function readRoutes(reader: FieldReader): Result['routes'] {
  return entries(reader, 'routes').flatMap((fields) => {
    const destination = fields.parsed('dst', 'a network such as 10.0.0.0/8', parseHostCidr);
    const route = {
      gateway: fields.parsed('gw', 'an IP address', parseIp),
      mtuBytes: fields.integer('mtu', 0, u32Most) || undefined,
      advertisedMss: fields.integer('advmss', 0, u32Most) || undefined,
      priority: fields.integer('priority', 0, u32Most) || undefined,
      table: fields.integer('table', 0, u32Most),
      scope: fields.integer('scope', 0, 255),
    };
    if (destination === undefined) {
      if (!fields.has('dst')) fields.problem('dst', 'missing');
      return [];
    }
    return [{ destination: networkOf(destination), ...route }];
  });
}
