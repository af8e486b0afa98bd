import type { Family } from '../../core/address.ts';
import { tables } from './layout.ts';
import { IptablesError, type Programs } from './program.ts';

/** What these programs cannot do for a family on this kernel, and what helps; undefined: nothing is missing. */
export async function missingSupport(
  programs: Pick<Programs, 'check'>,
  family: Family,
): Promise<Error | undefined> {
  for (const table of tables) {
    try {
      await programs.check(family, table);
    } catch (error) {
      if (!(error instanceof IptablesError) || isMomentary(error)) throw error;
      return new Error(`IPv${family} is not served: ${error.message} (${adviceOn(family, table, error)})`);
    }
  }
  return undefined;
}

/** Another program has the lock, or the machine was too slow. */
function isMomentary({ code, message }: IptablesError): boolean {
  return code === 'SIGKILL' || message.includes('xtables lock');
}

function adviceOn(family: Family, table: string, { code }: IptablesError): string {
  const [program, modules] = family === 4 ? ['iptables', 'iptable'] : ['ip6tables', 'ip6table'];
  if (code === 'ENOENT') return `install ${program}`;
  return `load the kernel's module ${modules}_${table}, or use mode nftables`;
}
