import { type Cidr, type Family, families } from '../../core/address.ts';
import { type HostPort, hostPortElement } from '../types/hostport.ts';
import type { PortmapConfig } from '../types/portmap.ts';
import type { IptablesRow } from './layout.ts';

/**
 * The rules of host ports. A connection's first packet by a host port is marked when its source is one of `sources`,
 * then gets the pod as its destination, and leaves masqueraded when it is marked.
 */
export function hostPortRows(
  config: PortmapConfig,
  hostPorts: readonly HostPort[],
  sources: (family: Family) => readonly Cidr[],
): IptablesRow[] {
  const marking = hostPorts.flatMap((port) =>
    sources(port.family).map((from) => markRow(config, port, from)),
  );
  return [
    ...marking,
    ...hostPorts.map((port) => dnatRow(config, port)),
    ...masqueradeRows(config, hostPorts),
  ];
}

function calledBy(
  { conditions }: PortmapConfig,
  { family, hostIp, protocol, hostPort }: HostPort,
  from?: Cidr,
) {
  const words = [
    ...(from === undefined || from.endsWith('/0') ? [] : ['-s', from]),
    ...(hostIp === undefined ? [] : ['-d', `${hostIp}/${family === 4 ? 32 : 128}`]),
    '-p',
    protocol,
    '-m',
    protocol,
    '--dport',
    `${hostPort}`,
    ...conditions[family].map(quoted),
  ];
  return words.join(' ');
}

function quoted(word: string): string {
  return /[ ']/.test(word) ? `"${word}"` : word;
}

function markRow(config: PortmapConfig, port: HostPort, from: Cidr): IptablesRow {
  const { externalSetMarkChain, markMasqBit } = config;
  const target = externalSetMarkChain ?? `MARK --set-xmark ${bit(markMasqBit)}`;
  return {
    family: port.family,
    chain: 'FAIRLEAD-HP-MARK',
    rule: `${calledBy(config, port, from)} -j ${target}`,
  };
}

function dnatRow(config: PortmapConfig, port: HostPort): IptablesRow {
  const { family, pod, containerPort } = port;
  const target = family === 4 ? `${pod}:${containerPort}` : `[${pod}]:${containerPort}`;
  return {
    family,
    chain: 'FAIRLEAD-HP-DNAT',
    rule: `${calledBy(config, port)} -j DNAT --to-destination ${target}`,
    claim: hostPortElement(port),
  };
}

/** Whoever owns an external chain masquerades what it marks. */
function masqueradeRows(config: PortmapConfig, hostPorts: readonly HostPort[]): IptablesRow[] {
  const { snat, externalSetMarkChain, markMasqBit } = config;
  if (!snat || externalSetMarkChain !== undefined) return [];
  return families.flatMap((family) => {
    const pod = hostPorts.find((port) => port.family === family)?.pod;
    if (pod === undefined) return [];
    const rule = `-d ${pod}/${family === 4 ? 32 : 128} -m mark --mark ${bit(markMasqBit)} -j MASQUERADE`;
    return [{ family, chain: 'FAIRLEAD-HP-MASQ' as const, rule }];
  });
}

function bit(number: number): string {
  const value = `0x${(2 ** number).toString(16)}`;
  return `${value}/${value}`;
}
