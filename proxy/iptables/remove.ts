import { type Family, families } from '../../core/address.ts';
import { removal } from './compare.ts';
import { editSize } from './edit.ts';
import { inputsOf } from './portions.ts';
import { IptablesError, IptablesPrograms, type Variant } from './program.ts';
import { parseSave } from './save.ts';
import { savedOrNothing, variants } from './variant.ts';

export interface RemoveOptions {
  /** The node's network namespace; else that of the process. */
  readonly namespaceFd?: number | undefined;
  /** The kind of iptables that is left as it is. */
  readonly except?: Variant | undefined;
}

/**
 * Takes away what any proxy in this mode left, in both kinds of iptables and both families; whether there was anything.
 * Chains that others share stay: KUBE-FIREWALL, and KUBE-MARK-MASQ while a rule of others leads to it.
 * Throws the first IptablesError, when everything else has gone.
 */
export async function removeIptables({ namespaceFd, except }: RemoveOptions = {}): Promise<boolean> {
  let found = false;
  const errors: unknown[] = [];
  for (const variant of [undefined, ...variants]) {
    const programs = new IptablesPrograms({ namespaceFd, variant });
    if (except !== undefined && (await kindOf(programs)) === except) continue;
    for (const family of families) {
      try {
        if (await removeFrom(programs, family)) found = true;
      } catch (error) {
        errors.push(error);
      }
    }
  }
  if (errors.length > 0) throw errors[0];
  return found;
}

async function removeFrom(programs: IptablesPrograms, family: Family): Promise<boolean> {
  const edit = removal(parseSave(await savedOrNothing(programs, family)));
  if (editSize(edit) === 0) return false;
  for (const input of await inputsOf(edit, programs)) await programs.restore(family, input);
  return true;
}

/** Undefined: there are no such programs. */
async function kindOf(programs: IptablesPrograms): Promise<Variant | undefined> {
  try {
    return await programs.kind();
  } catch (error) {
    if (error instanceof IptablesError && error.code === 'ENOENT') return undefined;
    throw error;
  }
}
