import { createHash } from 'node:crypto';
import type { Endpoint } from '../view.ts';
import type { MaglevSize } from './elements.ts';

/*
 * Maglev's lookup table (Eisenbud et al., NSDI 2016, section 3.4): every endpoint has a permutation of the table's
 * places made of its own name, and in turn each takes the first free place of its own. When an endpoint comes or
 * goes, few places of others change hands, and every node that knows the same endpoints has the same table.
 */

/** Beyond so many endpoints the larger table is taken. */
const ENDPOINTS_OF_SMALL = 100;

export function maglevSize(endpoints: number): MaglevSize {
  return endpoints <= ENDPOINTS_OF_SMALL ? 1021 : 4093;
}

interface Candidate {
  readonly endpoint: Endpoint;
  place: number;
  readonly skip: number;
  /** What it has saved up for a turn. The heaviest has one in every round. */
  credit: number;
  readonly income: number;
}

/** The endpoint of each place; of those with weight 0 none, unless all have it. */
export function maglevTable(endpoints: readonly Endpoint[], size: MaglevSize): readonly Endpoint[] {
  const heaviest = Math.max(...endpoints.map(({ weight }) => weight));
  const candidates = endpoints
    .filter(({ weight }) => weight > 0 || heaviest === 0)
    .map((endpoint) => candidateOf(endpoint, size, heaviest === 0 ? 1 : endpoint.weight / heaviest));
  const table: (Endpoint | undefined)[] = new Array(size).fill(undefined);
  for (let free = candidates.length === 0 ? 0 : size; free > 0; ) {
    for (const candidate of candidates) {
      candidate.credit += candidate.income;
      if (candidate.credit < 1 || free === 0) continue;
      candidate.credit -= 1;
      while (table[candidate.place] !== undefined)
        candidate.place = (candidate.place + candidate.skip) % size;
      table[candidate.place] = candidate.endpoint;
      free -= 1;
    }
  }
  return table.filter((endpoint) => endpoint !== undefined);
}

function candidateOf(endpoint: Endpoint, size: MaglevSize, income: number): Candidate {
  const digest = createHash('sha256').update(`${endpoint.ip} ${endpoint.port}`).digest();
  const place = digest.readUInt32BE(0) % size;
  const skip = 1 + (digest.readUInt32BE(4) % (size - 1));
  return { endpoint, place, skip, credit: 0, income };
}
