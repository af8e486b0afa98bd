import type { V1Endpoint, V1EndpointSlice, V1Service } from '../../kube/types.ts';

// Services and EndpointSlices out of one line of words:
//   default/web type=NodePort ips=10.96.0.10,fd00::10 ports=http:80/TCP@30080,:53/UDP
//     external=192.0.2.9 lb=198.51.100.1,198.51.100.2/Proxy ranges=203.0.113.0/25 affinity=600 health=31000
//     inside=Local outside=Local proxy=NAME created=2026-01-01T00:00:00Z weights={"10.244.1.5":3} balancing=maglev
//   default/web-1 service=web family=IPv4 ports=http:8080/TCP headless=
//     10.244.1.5,node=a,zones=x+y,nodes=a 10.244.1.6,ready=false,serving=true,terminating=true

interface Words {
  readonly namespace: string;
  readonly name: string;
  readonly options: ReadonlyMap<string, string>;
  readonly rest: readonly string[];
}

/** Words like `name=value`. */
export function optionsOf(text: string): ReadonlyMap<string, string> {
  const pairs = text.trim().split(/\s+/).filter(isOption);
  return new Map(pairs.map((word) => [word.split('=')[0] ?? '', word.slice(word.indexOf('=') + 1)]));
}

function isOption(word: string): boolean {
  return /^\w+=/.test(word);
}

function parseWords(text: string): Words {
  const [key = '', ...words] = text.trim().split(/\s+/);
  const [namespace = '', name = ''] = key.split('/');
  return { namespace, name, options: optionsOf(text), rest: words.filter((word) => !isOption(word)) };
}

export function parseService(text: string): V1Service {
  const { namespace, name, options } = parseWords(text);
  return {
    metadata: {
      namespace,
      name,
      ...(options.has('created') && { creationTimestamp: options.get('created') as string }),
      ...named('labels', { 'service.kubernetes.io/service-proxy-name': options.get('proxy') }),
      ...named('annotations', {
        'fairlead.dev/weights': options.get('weights'),
        'fairlead.dev/load-balancing': options.get('balancing'),
      }),
    },
    spec: {
      ...addressesOf(options),
      ...policiesOf(options),
      ports: list(options.get('ports')).map(servicePort),
    },
    ...(options.has('lb') && { status: { loadBalancer: { ingress: list(options.get('lb')).map(ingress) } } }),
  };
}

function addressesOf(options: ReadonlyMap<string, string>) {
  const clusterIPs = options.get('ips')?.split(',') ?? [];
  const families = options.has('families') ? list(options.get('families')) : undefined;
  return {
    type: options.get('type') ?? 'ClusterIP',
    ...(clusterIPs[0] && { clusterIP: clusterIPs[0] }),
    clusterIPs,
    ipFamilies: families ?? clusterIPs.map((ip) => (ip.includes(':') ? 'IPv6' : 'IPv4')),
    ...(options.has('external') && { externalIPs: list(options.get('external')) }),
  };
}

function policiesOf(options: ReadonlyMap<string, string>) {
  const affinity = options.get('affinity');
  return {
    ...(options.has('inside') && { internalTrafficPolicy: options.get('inside') as string }),
    ...(options.has('outside') && { externalTrafficPolicy: options.get('outside') as string }),
    ...(options.has('health') && { healthCheckNodePort: Number(options.get('health')) }),
    ...(options.has('ranges') && { loadBalancerSourceRanges: list(options.get('ranges')) }),
    ...(affinity !== undefined && {
      sessionAffinity: 'ClientIP',
      ...(affinity !== '' && { sessionAffinityConfig: { clientIP: { timeoutSeconds: Number(affinity) } } }),
    }),
  };
}

/** Only what has a value; nothing at all where nothing has. */
function named<Name extends string>(name: Name, values: Readonly<Record<string, string | undefined>>) {
  const given = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return (given.length === 0 ? {} : { [name]: Object.fromEntries(given) }) as {
    [key in Name]?: Record<string, string>;
  };
}

/** `198.51.100.1`, `198.51.100.1/Proxy` or the name of a host. */
function ingress(text: string) {
  const [address = '', ipMode] = text.split('/');
  return {
    ...(/[a-z]\./.test(address) ? { hostname: address } : { ip: address }),
    ...(ipMode && { ipMode }),
  };
}

function servicePort(text: string) {
  const { name, port, protocol, nodePort } = parsePort(text);
  return { ...(name && { name }), port, protocol, ...(nodePort && { nodePort }) };
}

export function parseSlice(text: string): V1EndpointSlice {
  const { namespace, name, options, rest } = parseWords(text);
  return {
    metadata: {
      namespace,
      name,
      ...named('labels', {
        'kubernetes.io/service-name': options.get('service'),
        'service.kubernetes.io/headless': options.get('headless'),
      }),
      ...named('annotations', { 'endpoints.kubernetes.io/last-change-trigger-time': options.get('changed') }),
    },
    addressType: options.get('family') ?? 'IPv4',
    ports: list(options.get('ports'))
      .map(parsePort)
      .map(({ name: portName, port, protocol }) => ({ name: portName, port, protocol })),
    endpoints: rest.map(parseEndpoint),
  };
}

function list(text: string | undefined): string[] {
  return text ? text.split(',') : [];
}

function parsePort(text: string) {
  const match = /^(.*):(\d+)(?:\/(\w+))?(?:@(\d+))?$/.exec(text);
  if (match === null) throw new Error(`not a port: "${text}"`);
  const [, name = '', port, protocol = 'TCP', nodePort] = match;
  return { name, port: Number(port), protocol, nodePort: Number(nodePort ?? 0) };
}

function parseEndpoint(text: string): V1Endpoint {
  const [address = '', ...words] = text.split(',');
  const options = new Map(words.map((word) => word.split('=') as [string, string]));
  const flag = (name: string) => (options.has(name) ? { [name]: options.get(name) === 'true' } : {});
  const names = (option: string, field: string) =>
    options.has(option)
      ? {
          [field]: options
            .get(option)
            ?.split('+')
            .map((name) => ({ name })),
        }
      : {};
  const hints = { ...names('zones', 'forZones'), ...names('nodes', 'forNodes') };
  return {
    addresses: address === '-' ? [] : [address],
    ...(options.has('node') && { nodeName: options.get('node') as string }),
    conditions: { ...flag('ready'), ...flag('serving'), ...flag('terminating') },
    ...(Object.keys(hints).length > 0 && { hints }),
  };
}
