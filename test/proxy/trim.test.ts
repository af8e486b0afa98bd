import test from 'ava';
import fc from 'fast-check';
import type { Ip } from '../../core/address.ts';
import { serviceView } from '../../proxy/service-view.ts';
import { trimService, trimSlice } from '../../proxy/trim.ts';
import { nonsenseService, nonsenseSlice } from './nonsense.ts';
import { parseService, parseSlice } from './objects.ts';

const node = { nodeName: 'here', zone: 'a', nodeIps: ['192.0.2.1' as Ip] };
const service = parseService('default/web type=NodePort ips=10.96.0.10 ports=http:80@30080');
const slice = parseSlice('default/web-1 service=web ports=http:8080 10.244.1.5,node=here 10.244.1.6');

test('a trimmed object has what views are made of, and no more of the rest', (t) => {
  const heavy = {
    ...slice,
    metadata: { ...slice.metadata, uid: 'u', managedFields: [{ manager: 'm' }], generateName: 'web-' },
    endpoints: slice.endpoints?.map((endpoint) => ({ ...endpoint, targetRef: { kind: 'Pod' }, zone: 'a' })),
  };
  const trimmed = trimSlice(heavy);
  t.deepEqual(trimmed, trimSlice(slice));
  t.deepEqual(serviceView(trimService(service), [trimmed], node), serviceView(service, [slice], node));
  const metadata = { ...service.metadata, managedFields: [], ownerReferences: [] };
  t.deepEqual(trimService({ ...service, metadata }), trimService(service));
});

test('trimming changes nothing that can be said about an object, whatever is in it', (t) => {
  const any = fc.record({
    its: nonsenseService('bad', 'a'),
    slices: fc.array(nonsenseSlice('bad', 'a-1', 'a')),
  });
  const viewOf = (...args: Parameters<typeof serviceView>) => {
    try {
      return serviceView(...args);
    } catch (error) {
      return (error as Error).message;
    }
  };
  fc.assert(
    fc.property(any, ({ its, slices }) => {
      t.deepEqual(viewOf(trimService(its), slices.map(trimSlice), node), viewOf(its, slices, node));
    }),
  );
});
