import type { Dns } from './config.ts';
import { CniError, cniCode } from './error.ts';
import { readSmallFile } from './small-file.ts';

/** Reads a resolv.conf(5) as host-local does: lists of several lines are joined, of several domains the last counts. */
export function parseResolvConf(text: string): Dns {
  const dns = { nameservers: [] as string[], search: [] as string[], options: [] as string[] };
  let domain: string | undefined;
  for (const line of text.split('\n')) {
    const [keyword = '', ...words] = line.trim().split(/\s+/);
    const [first] = words;
    if (first === undefined) continue;
    if (keyword === 'nameserver') dns.nameservers.push(first);
    else if (keyword === 'domain') domain = first;
    else if (keyword === 'search') dns.search.push(...words);
    else if (keyword === 'options') dns.options.push(...words);
  }
  return { ...dns, domain };
}

/** The dns of the result: what the file named by `ipam.resolvConf` says, if one is. Throws CniError. */
export function readResolvConf(path: string | undefined): Dns {
  try {
    return parseResolvConf(path === undefined ? '' : readSmallFile(path));
  } catch (error) {
    throw new CniError(cniCode.ioFailure, `ipam.resolvConf: ${(error as Error).message}`);
  }
}
