import { parseHostCidr, parseIp } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import { type CniRoute, type Dns, readDns, readRoutes } from './config.ts';
import { CniError, cniCode } from './error.ts';
import { FieldReader, foldKeys, isObject } from './fields.ts';
import type { ResultAddress } from './result.ts';

/** What an IPAM plugin answers: addresses that belong to no interface yet (specification §4). */
export interface IpamResult {
  readonly ips: readonly ResultAddress[];
  readonly routes: readonly CniRoute[];
  readonly dns: Dns;
}

/**
 * Reads what a foreign IPAM plugin printed, in the shape of any version: `ips`, or before 0.3.0 `ip4` and `ip6`,
 * which have their routes in them. A result without any address is an error, as in the reference plugins.
 */
export function parseIpamResult(text: string): IpamResult | CniError {
  const value = parseJson(text);
  if (!isObject(value)) return refuse(`must be an object, not ${JSON.stringify(text.slice(0, 200))}`);
  const problems: Problem[] = [];
  const reader = new FieldReader(foldKeys(value), problems);
  const families = [reader.object('ip4'), reader.object('ip6')];
  const result = {
    ips: [...readIps(reader), ...families.flatMap((family) => readAddress(family, 'ip'))],
    routes: [reader, ...families].flatMap(readRoutes),
    dns: readDns(reader.object('dns')),
  };
  if (problems.length > 0) {
    return refuse(problems.map(({ path, message }) => `${path}: ${message}`).join('; '));
  }
  if (result.ips.length > 0) return result;
  return new CniError(cniCode.internal, 'IPAM plugin returned missing IP config');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refuse(why: string): CniError {
  return new CniError(cniCode.decodingFailure, `failed to parse the result of the IPAM plugin: ${why}`);
}

function readIps(reader: FieldReader): ResultAddress[] {
  return reader.list('ips').flatMap((entry, index) => {
    const fields = reader.entry(`ips[${index}]`, entry);
    return fields === undefined ? [] : readAddress(fields, 'address', true);
  });
}

function readAddress(fields: FieldReader, key: string, isNeeded = false): ResultAddress[] {
  const address = fields.parsed(key, 'an address such as 10.1.0.2/24', parseHostCidr);
  const gateway = fields.parsed('gateway', 'an IP address', parseIp);
  if (address !== undefined) return [{ address, gateway }];
  if (isNeeded && !fields.has(key)) fields.problem(key, 'missing');
  return [];
}
