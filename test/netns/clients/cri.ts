import http2 from 'node:http2';
import net from 'node:net';
import { decodeMessage, encodeMessage, type Message, messagesOf, type Received, textOf } from './protobuf.ts';

/**
 * The part of the Kubernetes container runtime interface that concerns networks, spoken as the kubelet speaks it:
 * gRPC over a unix socket. Field numbers are those of k8s.io/cri-api, runtime/v1/api.proto.
 */
export class CriClient implements Disposable {
  readonly #session: http2.ClientHttp2Session;

  constructor(socketPath: string) {
    this.#session = http2.connect('http://localhost', { createConnection: () => net.connect(socketPath) });
    this.#session.on('error', () => undefined); // each call tells it
  }

  /** Conditions that do not hold, as the kubelet would report them. */
  async problems(): Promise<string[]> {
    const [status] = messagesOf(await this.#call('Status', {}), 1);
    const conditions = status === undefined ? [] : messagesOf(status, 1);
    return conditions
      .filter((condition) => condition.get(2)?.at(-1) !== 1)
      .map((condition) => `${textOf(condition, 1)}: ${textOf(condition, 3)} ${textOf(condition, 4)}`);
  }

  /** Makes the sandbox of a pod and attaches it; answers its id. */
  async runPodSandbox(pod: { name: string; ports?: readonly PortMapping[] }): Promise<string> {
    const config: Message = {
      1: { 1: pod.name, 2: `uid-${pod.name}`, 3: 'default' },
      2: pod.name,
      3: '/mnt/logs',
      5: (pod.ports ?? []).map(({ containerPort, hostPort }) => ({ 2: containerPort, 3: hostPort })),
      8: {},
    };
    return textOf(await this.#call('RunPodSandbox', { 1: config }), 1);
  }

  /** Addresses of a pod, the preferred one first. */
  async addresses(id: string): Promise<string[]> {
    const [status] = messagesOf(await this.#call('PodSandboxStatus', { 1: id }), 1);
    const [network] = status === undefined ? [] : messagesOf(status, 5);
    if (network === undefined) return [];
    return [textOf(network, 1), ...messagesOf(network, 2).map((more) => textOf(more, 1))];
  }

  async stopPodSandbox(id: string): Promise<void> {
    await this.#call('StopPodSandbox', { 1: id });
  }

  async removePodSandbox(id: string): Promise<void> {
    await this.#call('RemovePodSandbox', { 1: id });
  }

  #call(method: string, message: Message): Promise<Received> {
    const { promise, resolve, reject } = Promise.withResolvers<Received>();
    const stream = this.#session.request({
      ':method': 'POST',
      ':path': `/runtime.v1.RuntimeService/${method}`,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    const chunks: Buffer[] = [];
    let status = 'no status';
    const read = (headers: http2.IncomingHttpHeaders) => {
      const code = headers['grpc-status'];
      if (code !== undefined) status = code === '0' ? 'ok' : `${code} ${headers['grpc-message']}`;
    };
    stream.on('response', read).on('trailers', read).on('error', reject);
    stream.on('data', (chunk) => chunks.push(chunk));
    stream.on('end', () => {
      if (status !== 'ok') reject(new Error(`CRI ${method}: ${status}`));
      else resolve(decodeMessage(Buffer.concat(chunks).subarray(FRAME_BYTES)));
    });
    const body = encodeMessage(message);
    const frame = Buffer.alloc(FRAME_BYTES);
    frame.writeUInt32BE(body.length, 1);
    stream.end(Buffer.concat([frame, body]));
    return promise;
  }

  [Symbol.dispose](): void {
    this.#session.destroy();
  }
}

/** TCP. */
export interface PortMapping {
  readonly containerPort: number;
  readonly hostPort: number;
}

/** gRPC puts a flag and the length before each message. */
const FRAME_BYTES = 5;
