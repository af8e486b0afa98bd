/** The transport protocols a Service port can have. */
export type Protocol = 'tcp' | 'udp' | 'sctp';

/** The number in the IP header. */
export const protocolNumbers: Readonly<Record<Protocol, number>> = { tcp: 6, udp: 17, sctp: 132 };

/** Reads the API's "TCP", "UDP", "SCTP"; TCP when absent. */
export function parseProtocol(text: string | undefined): Protocol | undefined {
  switch (text) {
    case undefined:
    case '':
    case 'TCP':
      return 'tcp';
    case 'UDP':
      return 'udp';
    case 'SCTP':
      return 'sctp';
    default:
      return undefined;
  }
}

/** What is wrong with a protocol that `parseProtocol` does not know. */
export function notAProtocol(value: unknown): string {
  return `is none of TCP, UDP, SCTP: ${JSON.stringify(value)?.slice(0, 60)}`;
}
