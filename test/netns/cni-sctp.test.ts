import test from 'ava';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { parsePortmap, planPortmap } from '../../cni/types/portmap.ts';
import { openFilterLab } from './cni-filter-lab.ts';
import { RawPort } from './proxy-packets-raw.ts';
import { connectSctp, serveSctp } from './proxy-packets-sctp.ts';

const answerLimitMs = 30_000;
const silenceMs = 1_500;

test('a host port of SCTP leads to the pod, both families: the first packets of an association', async (t) => {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  const { outside } = lab.lab;
  using inPod = await RawPort.open(pod.namespace, [lab.node.namespace, 'cni0']);
  using client = await RawPort.open(outside.namespace, [lab.node.namespace, 'eth0']);
  serveSctp(inPod, 'pod5', 80);
  const ask = (index: 0 | 1, limitMs: number) =>
    connectSctp(client, outside.addresses[index], { ip: lab.node.addresses[index], port: 8080 }, limitMs);
  for (const index of [0, 1] as const) t.false((await ask(index, silenceMs)).ok);

  const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'sctp' }];
  const config = parsePortmap(foldKeys({ type: 'portmap', runtimeConfig: { portMappings } }));
  if (config instanceof CniError) throw config;
  const rows = planPortmap(config, { 4: pod.addresses[0], 6: pod.addresses[1] });
  if (rows instanceof CniError) throw rows;
  await lab.filter(rows);
  for (const index of [0, 1] as const) {
    const answer = { name: 'pod5', peer: outside.addresses[index] };
    t.like(await ask(index, answerLimitMs), { ok: true, answer });
  }
});
