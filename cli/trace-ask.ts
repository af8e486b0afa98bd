import http from 'node:http';
import type { TraceAnswer, TraceRequest } from '../proxy/trace-request.ts';
import { statusSockets } from './node-status.ts';

const ASK_TIMEOUT_MS = 10_000;

/** Asks the node's agent, or the proxy by itself, whichever answers. Throws with what to do next. */
export async function askTrace(runDir: string, request: TraceRequest): Promise<TraceAnswer> {
  const { source, destination, port, protocol } = request;
  const query = new URLSearchParams({ source, destination, port: String(port), protocol });
  let refusal: string | undefined;
  for (const name of [statusSockets.node, statusSockets.proxy]) {
    const answer = await ask(`${runDir}/${name}`, `/trace?${query}`);
    if (answer === undefined) continue;
    if ('trace' in answer) return answer as TraceAnswer;
    // An agent that serves no Services may stand beside a proxy by itself.
    refusal ??= 'error' in answer ? String(answer.error) : 'the agent is of an older version: start it anew';
  }
  if (refusal !== undefined) throw new Error(refusal);
  const sockets = Object.values(statusSockets).join(' or ');
  throw new Error(
    `nobody answers on ${sockets} in ${runDir}; start one with "fairlead node" or "fairlead proxy", or name its --run-dir`,
  );
}

/** Undefined: nobody listens there, or does not answer. */
async function ask(socketPath: string, path: string): Promise<object | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
  const signal = AbortSignal.timeout(ASK_TIMEOUT_MS);
  http.get({ socketPath, path, agent: false, signal }, resolve).on('error', reject);
  try {
    let text = '';
    for await (const part of (await promise).setEncoding('utf8')) text += part;
    return JSON.parse(text) as object;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') return undefined;
    throw new Error(`${socketPath} is for root alone: run this as root`);
  }
}
