import { type Ip, parseHostCidr, parseIp } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import type { CniArgs } from './args.ts';
import { CniError, cniCode } from './error.ts';
import { FieldReader, type Fields } from './fields.ts';

/**
 * The addresses that the caller asks for: `runtimeConfig.ips` and `args.cni.ips` together, or without both the `IP`
 * of CNI_ARGS (conventions of CNI: CNI_ARGS does not count where the others say the same). A prefix length behind an
 * address does not count: that of the range does. None comes twice.
 */
export function parseRequested(config: Fields, args: CniArgs): readonly Ip[] | CniError {
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const inConfig = [
    ...readIps(reader.object('runtimeConfig')),
    ...readIps(reader.object('args').object('cni')),
  ];
  if (problems.length > 0) {
    const text = problems.map(({ path, message }) => `${path}: ${message}`).join('; ');
    return new CniError(cniCode.invalidConfig, `invalid network config: ${text}`);
  }
  return inConfig.length > 0 ? [...new Set(inConfig)] : parseArgument(args.ip ?? '');
}

function readIps(reader: FieldReader): Ip[] {
  const ips: Ip[] = [];
  reader.texts('ips').forEach((text, index) => {
    const ip = parseRequest(text);
    if (ip !== undefined) ips.push(ip);
    else reader.problem(`ips[${index}]`, `invalid IP address ${text}`);
  });
  return ips;
}

/** One or, as type static takes them, several with commas. */
function parseArgument(text: string): readonly Ip[] | CniError {
  if (text === '') return [];
  const ips: Ip[] = [];
  for (const entry of text.split(',')) {
    const ip = parseRequest(entry.trim());
    if (ip === undefined) {
      return new CniError(
        cniCode.invalidEnvironment,
        `CNI_ARGS: ARGS: error parsing value of pair ${JSON.stringify(`IP=${text}`)}: invalid IP address ${entry}`,
      );
    }
    ips.push(ip);
  }
  return [...new Set(ips)];
}

const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/;

function parseRequest(text: string): Ip | undefined {
  const host = text.includes('/') ? parseHostCidr(text) : undefined;
  const ip = host === undefined ? parseIp(text) : parseIp(host.slice(0, host.indexOf('/')));
  const [, v4] = mapped.exec(ip ?? '') ?? [];
  return v4 === undefined ? ip : parseIp(v4);
}
