import http, { type IncomingHttpHeaders } from 'node:http';

export interface Heard {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** One GET over a connection of its own. Rejects with Node's error. */
export function ask(port: number, path = '/', { host = '127.0.0.1', method = 'GET' } = {}): Promise<Heard> {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, path, method, agent: false }, async (response) => {
      let body = '';
      for await (const part of response.setEncoding('utf8')) body += part;
      resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
    });
    request.on('error', reject).end();
  });
}

/** The code of the error that a question meets, or its status. */
export async function outcomeOf(port: number, host = '127.0.0.1'): Promise<string | number> {
  return await ask(port, '/', { host }).then(
    ({ status }) => status,
    ({ code }: NodeJS.ErrnoException) => code ?? 'error',
  );
}
