import test from 'ava';
import { parseProxyConfiguration } from '../../proxy/config/config.ts';
import { planConntrackSysctls } from '../../proxy/conntrack-sysctls.ts';

const { conntrack: defaults } = parseProxyConfiguration(undefined).config;
const nothing = {
  maxPerCore: 0,
  min: 0,
  tcpEstablishedTimeoutMs: 0,
  tcpCloseWaitTimeoutMs: 0,
  tcpBeLiberal: false,
  udpTimeoutMs: 0,
  udpStreamTimeoutMs: 0,
};

function plan(changes: Partial<typeof nothing>, machine: { cpus: number; buckets?: number } = { cpus: 2 }) {
  const rows = [...planConntrackSysctls({ ...nothing, ...changes }, machine)];
  return rows.map(([key, value]) => `${key.replace('net/netfilter/nf_conntrack_', '')}=${value}`);
}

test('with kube-proxy’s defaults there is room for 128 Ki connections, or 32 Ki for each processor', (t) => {
  t.deepEqual(Object.fromEntries(planConntrackSysctls(defaults, { cpus: 2 })), {
    'net/netfilter/nf_conntrack_max': '131072',
    'net/netfilter/nf_conntrack_tcp_timeout_established': '86400',
    'net/netfilter/nf_conntrack_tcp_timeout_close_wait': '3600',
  });
  t.is(planConntrackSysctls(defaults, { cpus: 8 }).get('net/netfilter/nf_conntrack_max'), '262144');
});

test('many processors ask for no more than a million connections; a minimum may', (t) => {
  t.deepEqual(plan({ maxPerCore: 32768 }, { cpus: 400 }), ['max=1048576']);
  t.deepEqual(plan({ maxPerCore: 32768, min: 2_000_000 }, { cpus: 400 }), ['max=2000000']);
});

test('zero leaves a setting as it is, and without a number per processor the minimum does not count', (t) => {
  t.deepEqual(plan({ min: 131072 }), []);
});

test('the hash table is made larger, never smaller', (t) => {
  t.deepEqual(plan({ maxPerCore: 1000 }, { cpus: 2, buckets: 499 }), ['max=2000', 'buckets=500']);
  t.deepEqual(plan({ maxPerCore: 1000 }, { cpus: 2, buckets: 500 }), ['max=2000']);
  t.deepEqual(plan({ maxPerCore: 1000 }, { cpus: 2, buckets: 70_000 }), ['max=2000']);
});

test('timeouts are seconds, never none of them', (t) => {
  t.deepEqual(
    plan({
      udpTimeoutMs: 400,
      udpStreamTimeoutMs: 120_400,
      tcpBeLiberal: true,
      tcpCloseWaitTimeoutMs: 60_000,
    }),
    ['tcp_timeout_close_wait=60', 'tcp_be_liberal=1', 'udp_timeout=1', 'udp_timeout_stream=120'],
  );
});
