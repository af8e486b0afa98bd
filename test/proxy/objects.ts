import type { V1Endpoint, V1EndpointSlice, V1Service } from '../../kube/types.ts';

// Services and EndpointSlices out of one line of words:
//   default/web type=NodePort ips=10.96.0.10,fd00::10 ports=http:80/TCP@30080,:53/UDP
//   default/web-1 service=web family=IPv4 ports=http:8080/TCP 10.244.1.5,node=a 10.244.1.6,ready=false,terminating=true

interface Words {
  readonly namespace: string;
  readonly name: string;
  readonly options: ReadonlyMap<string, string>;
  readonly rest: readonly string[];
}

function parseWords(text: string): Words {
  const [key = '', ...words] = text.trim().split(/\s+/);
  const [namespace = '', name = ''] = key.split('/');
  const isOption = (word: string) => /^\w+=/.test(word);
  const options = words
    .filter(isOption)
    .map((word) => [word.split('=')[0], word.slice(word.indexOf('=') + 1)]);
  return {
    namespace,
    name,
    options: new Map(options as [string, string][]),
    rest: words.filter((word) => !isOption(word)),
  };
}

export function parseService(text: string): V1Service {
  const { namespace, name, options } = parseWords(text);
  const clusterIPs = options.get('ips')?.split(',') ?? [];
  const families = options.get('families')?.split(',');
  return {
    metadata: { namespace, name },
    spec: {
      type: options.get('type') ?? 'ClusterIP',
      ...(clusterIPs[0] && { clusterIP: clusterIPs[0] }),
      clusterIPs,
      ipFamilies: families ?? clusterIPs.map((ip) => (ip.includes(':') ? 'IPv6' : 'IPv4')),
      ports: list(options.get('ports'))
        .map(parsePort)
        .map(({ name: portName, port, protocol, nodePort }) => ({
          ...(portName && { name: portName }),
          port,
          protocol,
          ...(nodePort && { nodePort }),
        })),
    },
  };
}

export function parseSlice(text: string): V1EndpointSlice {
  const { namespace, name, options, rest } = parseWords(text);
  const service = options.get('service');
  return {
    metadata: { namespace, name, ...(service && { labels: { 'kubernetes.io/service-name': service } }) },
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
  return {
    addresses: address === '-' ? [] : [address],
    ...(options.has('node') && { nodeName: options.get('node') as string }),
    conditions: { ...flag('ready'), ...flag('serving'), ...flag('terminating') },
  };
}
