import { families } from '../../core/address.ts';
import { IptablesError, IptablesPrograms, type Variant } from './program.ts';

/** The kinds in the order in which the host's mark is looked for. */
export const variants = ['nft', 'legacy'] as const satisfies readonly Variant[];

/**
 * Which kind of iptables the host uses: the one in which kubelet has put a chain of its own (KUBE-IPTABLES-HINT, before
 * 1.24 KUBE-KUBELET-CANARY), as kubernetes-sigs/iptables-wrappers tells it. Undefined without such a chain: then it is
 * what the host calls `iptables`.
 */
export async function detectVariant(namespaceFd: number | undefined): Promise<Variant | undefined> {
  for (const variant of variants) {
    const programs = new IptablesPrograms({ namespaceFd, variant });
    for (const family of families) {
      if (/^:KUBE-(IPTABLES-HINT|KUBELET-CANARY) /m.test(await savedOrNothing(programs, family)))
        return variant;
    }
  }
  return undefined;
}

/** Empty where there is no such program. */
export async function savedOrNothing(programs: IptablesPrograms, family: 4 | 6): Promise<string> {
  try {
    return await programs.save(family);
  } catch (error) {
    if (error instanceof IptablesError && error.code === 'ENOENT') return '';
    throw error;
  }
}
