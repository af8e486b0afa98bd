import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { Protocol } from '../protocol.ts';
import type { Frontend } from '../view.ts';
import { type FrontendValue, frontendElement } from './elements.ts';
import type { Journal } from './journal.ts';

/** One service's claim to a frontend. */
export interface Claim {
  /** `namespace/name` of the service. */
  readonly owner: string;
  readonly frontend: Frontend;
  readonly protocol: Protocol;
  /** Where it leads; undefined: connections are refused. */
  readonly value: FrontendValue | undefined;
}

/** The identity of a frontend, whoever claims it. */
export function frontendId({ frontend, protocol }: Pick<Claim, 'frontend' | 'protocol'>): string {
  const ip = frontend.kind === 'nodePort' ? '' : frontend.ip;
  return `${ip} ${protocol} ${frontend.port}`;
}

/**
 * The frontends of one family. Two services may claim the same one, for a moment (an address given to the next
 * service) or for good (a mistake): the service whose name sorts first has it, the other one gets it afterwards.
 */
export class Frontends {
  readonly #claims = new Map<string, readonly Claim[]>();
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  /** Replaces what `owner` claims of this frontend. */
  claim(claim: Claim): void {
    const id = frontendId(claim);
    const others = this.#others(id, claim.owner);
    this.#replace(
      id,
      [...others, claim].sort((a, b) => (a.owner < b.owner ? -1 : 1)),
    );
  }

  release(claim: Claim): void {
    const id = frontendId(claim);
    this.#replace(id, this.#others(id, claim.owner));
  }

  #others(id: string, owner: string): readonly Claim[] {
    return (this.#claims.get(id) ?? []).filter((claim) => claim.owner !== owner);
  }

  #replace(id: string, claims: readonly Claim[]): void {
    const before = this.#claims.get(id)?.[0];
    const [after] = claims;
    if (after === undefined) this.#claims.delete(id);
    else this.#claims.set(id, claims);
    this.#journal.replace(before && elementOf(before), after && elementOf(after));
  }

  *elements(): Generator<NftElement> {
    for (const [claim] of this.#claims.values()) if (claim !== undefined) yield elementOf(claim);
  }

  get size(): number {
    return this.#claims.size;
  }
}

function elementOf({ frontend, protocol, value }: Claim): NftElement {
  return frontendElement(frontend, protocol, value);
}
