import test from 'ava';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { parseRequested } from '../../cni/requested.ts';

function requested(config: Record<string, unknown>, ip?: string): string {
  const ips = parseRequested(foldKeys(config), ip === undefined ? {} : { ip });
  return ips instanceof CniError ? `${ips.code} ${ips.message}` : ips.join(' ');
}

test('addresses are asked for by CNI_ARGS, by args and by runtimeConfig', (t) => {
  t.is(requested({}), '');
  t.is(requested({}, '10.1.0.5'), '10.1.0.5');
  t.is(requested({}, '10.1.0.5/24, fd00::5'), '10.1.0.5 fd00::5');
  t.is(requested({ args: { cni: { ips: ['10.1.0.6/16'] } } }), '10.1.0.6');
  t.is(requested({ runtimeConfig: { ips: ['10.1.0.7', 'fd00:0::7/64'] } }), '10.1.0.7 fd00::7');
});

test('where the configuration asks, CNI_ARGS does not count', (t) => {
  t.is(requested({ args: { cni: { ips: ['10.1.0.6'] } } }, '10.1.0.5'), '10.1.0.6');
  t.is(requested({ runtimeConfig: { ips: ['10.1.0.7'] } }, 'nonsense'), '10.1.0.7');
  t.is(requested({ runtimeConfig: { ips: [] } }, '10.1.0.5'), '10.1.0.5');
});

test('args and runtimeConfig both count, an address of both once', (t) => {
  const config = {
    args: { cni: { ips: ['10.1.0.6', '10.1.0.7'] } },
    runtimeConfig: { ips: ['10.1.0.7/24'] },
  };
  t.is(requested(config), '10.1.0.7 10.1.0.6');
});

test('an IPv4 address written as IPv6 is one of IPv4', (t) => {
  t.is(requested({}, '::ffff:10.1.0.5'), '10.1.0.5');
});

test('what is no address is named', (t) => {
  t.is(
    requested({}, '10.1.0.5,x'),
    '4 CNI_ARGS: ARGS: error parsing value of pair "IP=10.1.0.5,x": invalid IP address x',
  );
  t.is(
    requested({ args: { cni: { ips: ['', '10.1.0.5/33'] } }, runtimeConfig: { ips: 7 } }),
    '7 invalid network config: runtimeConfig.ips: must be a list of texts, not 7; ' +
      'args.cni.ips[0]: invalid IP address ; args.cni.ips[1]: invalid IP address 10.1.0.5/33',
  );
});
