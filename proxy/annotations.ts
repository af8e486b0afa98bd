import type { Ip } from '../core/address.ts';
import type { V1Service } from '../kube/types.ts';
import type { EndpointsByPort } from './endpoints.ts';
import { quoted, type Report, wordOf } from './object-fields.ts';
import { parseIpSloppy } from './sloppy.ts';

/** On a Service: a JSON object of endpoints' addresses and their weights, 0 to 100; all others have 1. */
export const WEIGHTS_ANNOTATION = 'fairlead.dev/weights';
/** On a Service: `random` or `maglev`. */
export const BALANCING_ANNOTATION = 'fairlead.dev/load-balancing';

const MAX_WEIGHT = 100;
const balancings = ['random', 'maglev'] as const;

export function balancingOf({ metadata }: V1Service, report: Report): 'random' | 'maglev' {
  const path = `annotation ${BALANCING_ANNOTATION}`;
  return wordOf(metadata?.annotations?.[BALANCING_ANNOTATION], balancings, path, report) ?? 'random';
}

export type Weights = ReadonlyMap<Ip, number>;

const noWeights: Weights = new Map();

/** The weights that the annotation gives; what of it cannot be used is reported. */
export function weightsOf({ metadata }: V1Service, report: Report): Weights {
  const text: unknown = metadata?.annotations?.[WEIGHTS_ANNOTATION];
  if (text === undefined || text === null || text === '') return noWeights;
  const path = `annotation ${WEIGHTS_ANNOTATION}`;
  const given = parseObject(text);
  if (given === undefined) {
    report(path, `is no JSON object of addresses and weights: ${quoted(text)}`);
    return noWeights;
  }
  const weights = new Map<Ip, number>();
  for (const [address, weight] of Object.entries(given)) {
    const ip = parseIpSloppy(address);
    if (ip === undefined) report(path, `is no address: ${quoted(address)}`);
    else if (isWeight(weight)) weights.set(ip, weight);
    else report(path, `the weight of ${ip} is no whole number from 0 to ${MAX_WEIGHT}: ${quoted(weight)}`);
  }
  return weights;
}

function parseObject(text: unknown): Record<string, unknown> | undefined {
  try {
    const value: unknown = typeof text === 'string' ? JSON.parse(text) : undefined;
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    return isObject ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function isWeight(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_WEIGHT;
}

/** Reports weights of addresses that no endpoint has: a mistake, or a pod that is gone. */
export function reportUnknownWeights(weights: Weights, endpoints: EndpointsByPort, report: Report): void {
  if (weights.size === 0) return;
  const known = new Set([...endpoints.values()].flatMap((list) => list.map(({ ip }) => ip)));
  for (const ip of weights.keys()) {
    if (!known.has(ip)) report(`annotation ${WEIGHTS_ANNOTATION}`, `no endpoint has the address ${ip}`);
  }
}
