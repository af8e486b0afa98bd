import { addressBits, type Cidr, type Family, families } from '../../core/address.ts';
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

function calledBy({ family, hostIp, protocol, hostPort }: HostPort): string {
  const to = hostIp === undefined ? '' : `-d ${hostIp}/${addressBits(family)} `;
  return `${to}-p ${protocol} -m ${protocol} --dport ${hostPort}`;
}

function quoted(word: string): string {
  return /[ ']/.test(word) ? `"${word}"` : word;
}

/** Without the conditions, which may be about the source too; a mark alone does nothing to a packet. */
function markRow(config: PortmapConfig, port: HostPort, from: Cidr): IptablesRow {
  const { externalSetMarkChain, markMasqBit } = config;
  const source = from.endsWith('/0') ? '' : `-s ${from} `;
  const target = externalSetMarkChain ?? `MARK --set-xmark ${bit(markMasqBit)}`;
  return {
    family: port.family,
    chain: 'FAIRLEAD-HP-MARK',
    rule: `${source}${calledBy(port)} -j ${target}`,
  };
}

function dnatRow({ conditions }: PortmapConfig, port: HostPort): IptablesRow {
  const { family, pod, containerPort } = port;
  const target = family === 4 ? `${pod}:${containerPort}` : `[${pod}]:${containerPort}`;
  const words = [calledBy(port), ...conditions[family].map(quoted)];
  return {
    family,
    chain: 'FAIRLEAD-HP-DNAT',
    rule: `${words.join(' ')} -j DNAT --to-destination ${target}`,
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
    const rule = `-d ${pod}/${addressBits(family)} -m mark --mark ${bit(markMasqBit)} -j MASQUERADE`;
    return [{ family, chain: 'FAIRLEAD-HP-MASQ' as const, rule }];
  });
}

function bit(number: number): string {
  const value = `0x${(2 ** number).toString(16)}`;
  return `${value}/${value}`;
}
