import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import test from 'ava';
import { KubeClient } from '../../kube/client.ts';
import { loadKubeConfig } from '../../kube/config.ts';
import { NODES } from '../../kube/types.ts';

const file = (name: string) => readFileSync(join(import.meta.dirname, 'tls', name));
const ca = file('ca.crt');
const identity = { cert: file('client.crt'), key: file('client.key') };

/** Answers every list with one node, named after the client's certificate and its Authorization header. */
const server = https.createServer(
  { key: file('server.key'), cert: file('server.crt'), ca, requestCert: true, rejectUnauthorized: false },
  (request, response) => {
    const socket = request.socket as TLSSocket;
    const who = socket.authorized ? socket.getPeerCertificate().subject.CN : 'nobody';
    const name = `${who} ${request.headers.authorization ?? '-'}`;
    response.end(JSON.stringify({ items: [{ metadata: { name } }], metadata: {} }));
  },
);
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
test.after.always(() => {
  server.closeAllConnections();
  server.close();
});

async function seenAs(config: ConstructorParameters<typeof KubeClient>[0]): Promise<string | undefined> {
  using client = new KubeClient(config);
  return (await client.list(NODES)).items[0]?.metadata?.name;
}

test('a client certificate and a token are shown to a server that the CA vouches for', async (t) => {
  const serverName = 'server.test';
  t.is(await seenAs({ server: url, ca, serverName, ...identity }), 'client.test -');
  t.is(await seenAs({ server: url, ca, serverName, token: 'x' }), 'nobody Bearer x');
});

test('a server that nobody vouches for, or of another name, is refused unless that is wanted', async (t) => {
  const error = await t.throwsAsync(seenAs({ server: url, serverName: 'server.test' }));
  t.regex((error as NodeJS.ErrnoException | undefined)?.code ?? '', /^(UNABLE_TO|SELF_SIGNED)/);
  await t.throwsAsync(seenAs({ server: url, ca, serverName: 'other.test' }), {
    code: 'ERR_TLS_CERT_ALTNAME_INVALID',
  });
  t.is(await seenAs({ server: url, insecureSkipTlsVerify: true }), 'nobody -');
});

test('a kubeconfig gives certificates, names and tokens', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-kubeconfig-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'config');
  const base64 = (bytes: Buffer) => bytes.toString('base64');
  const cluster = { server: url, 'certificate-authority-data': base64(ca), 'tls-server-name': 'server.test' };
  const certificate = {
    'client-certificate-data': base64(identity.cert),
    'client-key-data': base64(identity.key),
  };
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'c', cluster }],
    users: [
      { name: 'with-certificate', user: certificate },
      { name: 'with-token', user: { token: 'secret' } },
    ],
    contexts: ['with-certificate', 'with-token'].map((user) => ({
      name: user,
      context: { cluster: 'c', user },
    })),
    'current-context': 'with-certificate',
  };
  writeFileSync(path, JSON.stringify(config));
  t.is(await seenAs(await loadKubeConfig(path)), 'client.test -');
  t.is(await seenAs(await loadKubeConfig(path, 'with-token')), 'nobody Bearer secret');
});
