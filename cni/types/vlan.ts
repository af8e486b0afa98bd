import type { Problem } from '../../core/errors.ts';
import type { BridgeVlan, BridgeVlanRow } from '../../kernel/bridge-vlan.ts';
import type { FieldReader } from '../fields.ts';

/** The VLANs of a pod's port. */
export interface PortVlans {
  /** Of frames without a tag; undefined: the bridge's own. */
  readonly native?: number | undefined;
  /** Frames of these have their tag in the pod. */
  readonly trunk: readonly BridgeVlan[];
  /** The port stays in the VLAN that the bridge gives to every new port. */
  readonly keepsDefault: boolean;
}

const idMost = 4094;
/** What is native on a trunk that has no VLAN of its own. */
const trunkNative = 1;

/** Reads `vlan`, `vlanTrunk`, `preserveDefaultVlan`; undefined without the first two. Texts are the reference's. */
export function readVlans(reader: FieldReader, problems: Problem[]): PortVlans | undefined {
  const vlan = reader.integer('vlan', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER) ?? 0;
  if (vlan < 0 || vlan > idMost)
    refuse(problems, `invalid VLAN ID ${vlan} (must be between 0 and ${idMost})`);
  const keepsDefault = reader.flag('preserveDefaultVlan') ?? false;
  const trunk = reader.list('vlanTrunk').flatMap((value, index) => {
    const entry = reader.entry(`vlanTrunk[${index}]`, value);
    return entry === undefined ? [] : readTrunk(entry, problems);
  });
  if (vlan === 0 && trunk.length === 0) return undefined;
  return { native: vlan === 0 ? trunkNative : vlan, trunk, keepsDefault };
}

function readTrunk(entry: FieldReader, problems: Problem[]): BridgeVlan[] {
  const [minId, maxId, id] = ['minID', 'maxID', 'id'].map((key) =>
    entry.integer(key, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  );
  const vlans: BridgeVlan[] = [];
  if (minId !== undefined && maxId !== undefined) {
    if (!isId(minId)) refuse(problems, 'incorrect trunk minID parameter');
    else if (!isId(maxId)) refuse(problems, 'incorrect trunk maxID parameter');
    else if (maxId < minId) refuse(problems, 'minID is greater than maxID in trunk parameter');
    else vlans.push({ id: minId, lastId: maxId });
  } else if (minId !== undefined || maxId !== undefined) {
    const missing = minId === undefined ? 'minID' : 'maxID';
    refuse(problems, `minID and maxID should be configured simultaneously, ${missing} is missing`);
  }
  if (id !== undefined && !isId(id)) refuse(problems, 'incorrect trunk id parameter');
  else if (id !== undefined) vlans.push({ id });
  return vlans;
}

/** A problem in the reference's words, which name no path. */
export function refuse(problems: Problem[], message: string): void {
  problems.push({ path: '', message });
}

function isId(id: number): boolean {
  return id >= 1 && id <= idMost;
}

/** The row of a port; of a VLAN that is named twice the native one counts. */
export function planVlans(port: string, { native, trunk, keepsDefault }: PortVlans): BridgeVlanRow {
  const own = native === undefined ? [] : [{ id: native, pvid: true, untagged: true }];
  return { port, vlans: [...trunk, ...own], ...(keepsDefault && { keepsOthers: true }) };
}
