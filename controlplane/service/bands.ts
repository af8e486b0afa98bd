/** How many values a set has, of which the lower ones are left to those who ask for a certain value. */
export interface Bands {
  readonly size: number;
  readonly staticSize: number;
}

/** min(max(16, size/16), 256) of the addresses of a range (kubernetes, ipallocator: calculateRangeOffset). */
export function addressBands(size: number): Bands {
  return { size, staticSize: size <= 16 ? 0 : Math.min(Math.max(16, Math.floor(size / 16)), 256) };
}

/** min(max(16, size/32), 128) of the node ports (kubernetes, portallocator: calculateRangeOffset). */
export function portBands(size: number): Bands {
  return { size, staticSize: size <= 16 ? 0 : Math.min(Math.max(16, Math.floor(size / 32)), 128) };
}

/**
 * A free value, counted from 0: from the upper band beginning at a random place, so that what was freed is not
 * given out again at once; from the lower one only when the upper is full. undefined: none is free.
 */
export function pickFree(
  { size, staticSize }: Bands,
  isUsed: (value: number) => boolean,
): number | undefined {
  return pickBetween(staticSize, size, isUsed) ?? pickBetween(0, staticSize, isUsed);
}

function pickBetween(from: number, to: number, isUsed: (value: number) => boolean): number | undefined {
  const count = to - from;
  const start = Math.floor(Math.random() * count);
  for (let i = 0; i < count; i += 1) {
    const value = from + ((start + i) % count);
    if (!isUsed(value)) return value;
  }
  return undefined;
}
