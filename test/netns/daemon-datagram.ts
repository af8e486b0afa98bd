/** Sends one datagram of so many bytes of payload and waits for an answer: HOST PORT BYTES. Ends with 0 or 1. */
import dgram from 'node:dgram';

const [host = '', port, bytes] = process.argv.slice(2);
const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
socket.on('message', () => process.exit(0));
socket.on('error', () => process.exit(1));
setTimeout(() => process.exit(1), 30_000);
socket.send(Buffer.alloc(Number(bytes), 1), Number(port), host);
