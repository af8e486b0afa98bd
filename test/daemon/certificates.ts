import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';

/** PEM files of a CA and of one certificate for 127.0.0.1 and its clients; by path. */
export function certificates(t: ExecutionContext): { ca: string; cert: string; key: string } {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-tls-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const at = (name: string) => join(directory, name);
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'pipe' });
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl('req', '-x509', ...newKey, '-keyout', at('ca.key'), '-out', at('ca.pem'), '-subj', '/CN=test ca');
  openssl('req', ...newKey, '-keyout', at('node.key'), '-out', at('node.csr'), '-subj', '/CN=node');
  writeFileSync(at('ext'), 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n');
  const signer = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial', '-extfile', at('ext')];
  openssl('x509', '-req', '-in', at('node.csr'), '-out', at('node.pem'), ...signer);
  return { ca: at('ca.pem'), cert: at('node.pem'), key: at('node.key') };
}
