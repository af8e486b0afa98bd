import test from 'ava';
import { InvalidArgumentError } from 'commander';
import { parseListen } from '../../cli/controlplane.ts';
import { cidrList, hostPort, httpUrl, readOptionFile, wholeNumber } from '../../cli/options.ts';
import { InputError } from '../../core/errors.ts';

test('a list of networks has at most one of each family', (t) => {
  t.deepEqual(cidrList('10.1.0.0/16, fd00::/48') as string[], ['10.1.0.0/16', 'fd00::/48']);
  for (const bad of ['10.1.0.1/16', '10.1.0.0', 'x', '10.1.0.0/16,10.2.0.0/16', '']) {
    t.throws(() => cidrList(bad), { instanceOf: InvalidArgumentError }, bad);
  }
});

test('a whole number outside its bounds is refused with the value and the bounds', (t) => {
  t.is(wholeNumber(1, 10)('7'), 7);
  for (const bad of ['0', '11', '1.5', 'x', '']) {
    t.throws(() => wholeNumber(1, 10)(bad), { message: `"${bad}" is not a whole number from 1 to 10.` });
  }
});

test('a listen address names host, port and, if wanted, a network namespace', (t) => {
  t.deepEqual(parseListen('127.0.0.1:6443'), { host: '127.0.0.1', port: 6443 });
  t.deepEqual(parseListen('[::]:0'), { host: '::', port: 0 });
  t.deepEqual(parseListen('127.0.0.1:0@/proc/1/ns/net'), {
    host: '127.0.0.1',
    port: 0,
    namespacePath: '/proc/1/ns/net',
  });
  for (const bad of ['6443', 'localhost:6443', '127.0.0.1', '127.0.0.1:70000', '::1:80', '']) {
    t.throws(() => parseListen(bad), { instanceOf: InvalidArgumentError }, bad);
  }
});

test('a URL is of HTTP, and refused with its text otherwise', (t) => {
  t.is(httpUrl('https://[fd00::1]:6443'), 'https://[fd00::1]:6443');
  for (const bad of ['', 'foo', '192.0.2.1:6443', 'ftp://a', 'http://', 'http:a']) {
    t.throws(() => httpUrl(bad), { message: new RegExp(`^"${bad}" is not a URL`) }, bad);
  }
});

test('a server listens on an address and a port', (t) => {
  t.deepEqual(hostPort('127.0.0.1:10300'), { host: '127.0.0.1', port: 10_300 });
  t.deepEqual(hostPort('[::]:10300'), { host: '::', port: 10_300 });
  for (const bad of ['', '10300', '127.0.0.1', '127.0.0.1:x', 'localhost:1']) {
    t.throws(() => hostPort(bad), { message: new RegExp(`^"${bad}" is not an address with a port`) }, bad);
  }
});

test('a file that an option names must be there and hold something', (t) => {
  const error = t.throws(() => readOptionFile('--token-file', '/nonexistent'), { instanceOf: InputError });
  t.regex(error?.message ?? '', /--token-file: ENOENT.*\/nonexistent/);
  t.throws(() => readOptionFile('--token-file', '/dev/null'), {
    message: /--token-file: \/dev\/null is empty/,
  });
});
