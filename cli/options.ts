import { readFileSync } from 'node:fs';
import { InvalidArgumentError, Option } from 'commander';
import { type Cidr, familyOf, parseCidr } from '../core/address.ts';
import { InputError } from '../core/errors.ts';
import { type HostPort, parseHostPort } from '../proxy/config/addresses.ts';

/** Reads a comma list of networks, at most one of each family; for options such as --cluster-cidr. */
export function cidrList(text: string): Cidr[] {
  const cidrs = text.split(',').map((part) => {
    const cidr = parseCidr(part.trim());
    if (cidr === undefined)
      throw new InvalidArgumentError(`"${part}" is not a network such as 10.244.0.0/16 (host bits zero).`);
    return cidr;
  });
  if (new Set(cidrs.map(familyOf)).size < cidrs.length) {
    throw new InvalidArgumentError(`"${text}" names two networks of one family.`);
  }
  return cidrs;
}

export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isNaN(value) || value < min || value > max) {
      throw new InvalidArgumentError(`"${text}" is not a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** `-o json` or `-o text`, on every command that prints a result. */
export function outputOption(): Option {
  return new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text');
}

export function logLevelOption(): Option {
  return new Option('--log-level <level>', 'how much to log')
    .choices(['trace', 'debug', 'info', 'warn', 'error'])
    .default('info');
}

/** The URL of an HTTP server, such as http://192.0.2.1:6443. */
export function httpUrl(text: string): string {
  if (URL.canParse(text) && /^https?:\/\/[^/]/.test(text)) return text;
  throw new InvalidArgumentError(`"${text}" is not a URL such as http://192.0.2.1:6443.`);
}

/** Where a server listens, such as 127.0.0.1:10300 or [::]:10300. */
export function hostPort(text: string): HostPort {
  const parsed = parseHostPort(text);
  if (parsed !== undefined) return parsed;
  throw new InvalidArgumentError(`"${text}" is not an address with a port such as 127.0.0.1:10300.`);
}

/** The text of a file that an option names. */
export function readOptionFile(option: string, path: string): string {
  try {
    const text = readFileSync(path, 'utf8').trim();
    if (text !== '') return text;
  } catch (error) {
    throw new InputError('options', [{ path: option, message: (error as Error).message }]);
  }
  throw new InputError('options', [{ path: option, message: `${path} is empty` }]);
}
