import {
  addressBits,
  type Cidr,
  cidrAddress,
  cidrsOverlap,
  familyOf,
  ipOf,
  ipToBigInt,
  parseCidr,
  prefixLengthOf,
} from '../../core/address.ts';

/** Subnets of equal size in one network, each with at most one owner. The lowest free one is given next. */
export class SubnetPool {
  readonly #network: Cidr;
  readonly #prefixLength: number;
  readonly #size: number;
  readonly #reserved: readonly (readonly [number, number])[];
  readonly #owners = new Map<number, string>();
  /** No subnet below this one is free. */
  #lowest = 0;

  /** @param reserved networks that no subnet may touch; those outside do not matter */
  constructor(network: Cidr, prefixLength: number, reserved: readonly Cidr[] = []) {
    const bits = prefixLength - prefixLengthOf(network);
    if (bits < 0 || prefixLength > addressBits(familyOf(network))) {
      throw new RangeError(`${network} has no subnets of length ${prefixLength}`);
    }
    this.#network = network;
    this.#prefixLength = prefixLength;
    this.#size = 2 ** bits;
    this.#reserved = reserved.flatMap((cidr) => {
      const places = this.#placesOf(cidr);
      return places === undefined ? [] : [places];
    });
  }

  /** Says whose a subnet is already, of whatever size. The owners that hold part of it otherwise. */
  occupy(cidr: Cidr, owner: string): string[] {
    const others = new Set<string>();
    const [first, last] = this.#placesOf(cidr) ?? [0, -1];
    for (let place = first; place <= last; place += 1) {
      const holder = this.#owners.get(place);
      if (holder === undefined) this.#owners.set(place, owner);
      else if (holder !== owner) others.add(holder);
    }
    return [...others];
  }

  /** The subnet of this owner, given now if there is none; undefined: all are taken. */
  allocate(owner: string): Cidr | undefined {
    for (let place = this.#lowest; place < this.#size; place += 1) {
      const reserved = this.#reserved.find(([first, last]) => first <= place && place <= last);
      if (reserved !== undefined) place = reserved[1];
      else if (!this.#owners.has(place)) {
        this.#lowest = place + 1;
        this.#owners.set(place, owner);
        return this.#subnet(place);
      }
    }
    return undefined;
  }

  release(owner: string): void {
    for (const [place, holder] of this.#owners) {
      if (holder !== owner) continue;
      this.#owners.delete(place);
      this.#lowest = Math.min(this.#lowest, place);
    }
  }

  #subnet(place: number): Cidr | undefined {
    const hostBits = BigInt(addressBits(familyOf(this.#network)) - this.#prefixLength);
    const ip = cidrAddress(this.#network, BigInt(place) << hostBits);
    return ip && parseCidr(`${ip}/${this.#prefixLength}`);
  }

  /** First and last subnet that a network touches. */
  #placesOf(cidr: Cidr): readonly [number, number] | undefined {
    if (!cidrsOverlap(this.#network, cidr)) return undefined;
    if (prefixLengthOf(cidr) <= prefixLengthOf(this.#network)) return [0, this.#size - 1];
    const hostBits = BigInt(addressBits(familyOf(cidr)) - this.#prefixLength);
    const offset = ipToBigInt(ipOf(cidr)) - ipToBigInt(ipOf(this.#network));
    const first = Number(offset >> hostBits);
    return [first, first + 2 ** Math.max(0, this.#prefixLength - prefixLengthOf(cidr)) - 1];
  }
}
