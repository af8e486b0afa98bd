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
