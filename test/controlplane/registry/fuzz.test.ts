import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { kinds } from '../../../controlplane/kinds/table.ts';
import type { Kind } from '../../../controlplane/registry/kind.ts';
import { LocalClient } from '../../../controlplane/registry/local-client.ts';
import { Registry } from '../../../controlplane/registry/registry.ts';
import { metadataShape, type Shape } from '../../../controlplane/registry/shape.ts';
import { ServiceAdmission } from '../../../controlplane/service/admission.ts';
import { SqliteStorage } from '../../../controlplane/storage/sqlite.ts';
import { ApiError } from '../../../kube/errors.ts';
import { NAMESPACES } from '../../../kube/types.ts';
import { cidrs } from '../server.ts';

const folder = mkdtempSync(join(tmpdir(), 'fairlead-fuzz-'));
const storage = SqliteStorage.open(join(folder, 'db'));
const admissions = new Map([['services', new ServiceAdmission(cidrs('10.96.0.0/16', 'fd00:10:96::/112'))]]);
const registry = await Registry.open({ storage, kinds, admissions });
await new LocalClient(registry).create(NAMESPACES, { metadata: { name: 'default' } });
test.after.always(async () => {
  await storage[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Texts that mean something to some field, so that the checks behind the first ones are reached too. */
const words = fc.constantFrom(
  ...[
    '',
    'a',
    'default',
    'None',
    'TCP',
    'UDP',
    'NodePort',
    'LoadBalancer',
    'ExternalName',
    'ClusterIP',
    'ClientIP',
  ],
  ...['Local', 'Cluster', 'IPv4', 'IPv6', 'FQDN', '10.96.0.9', 'fd00:10:96::9', '10.244.0.0/24', 'fd00::/64'],
  ...['RequireDualStack', 'PreferDualStack', 'SingleStack', 'http', 'Always', 'A_b', 'x/y', '__proto__'],
);

/** Mostly values of the shape, sometimes anything. */
function valuesOf(shape: Shape): fc.Arbitrary<unknown> {
  const anything = fc.oneof(
    fc.constant(null),
    words,
    fc.integer(),
    fc.boolean(),
    fc.constant([]),
    fc.constant({}),
  );
  return fc.oneof({ weight: 200, arbitrary: ofShape(shape) }, { weight: 1, arbitrary: anything });
}

function ofShape(shape: Shape): fc.Arbitrary<unknown> {
  if (shape === 'string') return words;
  if (shape === 'integer')
    return fc.oneof(fc.integer({ min: -1, max: 5 }), fc.integer({ min: 29_990, max: 70_000 }));
  if (shape === 'boolean') return fc.boolean();
  if (shape === 'intOrString') return fc.oneof(words, fc.integer({ min: 0, max: 70_000 }));
  if (typeof shape === 'string') return fc.jsonValue({ maxDepth: 1 });
  if (Array.isArray(shape)) return fc.array(valuesOf(shape[0]), { maxLength: 3 });
  if ('*' in shape) return fc.dictionary(words, valuesOf(shape['*'] ?? 'any'), { maxKeys: 3 });
  const fields = Object.entries(shape).map(([field, part]) => [field, valuesOf(part)] as const);
  return fc.record(Object.fromEntries(fields), { requiredKeys: [] });
}

function objectsOf(kind: Kind): fc.Arbitrary<object> {
  const plain = fc.constant({ name: 'a' });
  const whole = ofShape(metadataShape).map((value) => ({
    ...(value as object),
    name: 'a',
    namespace: undefined,
  }));
  const metadata = fc.oneof(
    { weight: 8, arbitrary: plain },
    { weight: 2, arbitrary: whole },
    { weight: 1, arbitrary: valuesOf(metadataShape) },
  );
  return fc
    .tuple(ofShape(kind.shape), metadata)
    .map(([fields, meta]) => ({ ...(fields as object), metadata: meta }));
}

/** Stored, refused by what it says (422), or not even read. */
async function answerTo(work: Promise<unknown>): Promise<'stored' | 'invalid' | 'refused'> {
  try {
    await work;
    return 'stored';
  } catch (error) {
    if (error instanceof ApiError && error.status < 500) return error.status === 422 ? 'invalid' : 'refused';
    throw error;
  }
}

for (const kind of kinds) {
  test(`whatever is sent as ${kind.kind} is stored or refused, never an internal error`, async (t) => {
    const namespace = kind.namespaced ? 'default' : undefined;
    const answers = { stored: 0, invalid: 0, refused: 0 };
    const property = fc.asyncProperty(objectsOf(kind), objectsOf(kind), async (first, second) => {
      const path = { kind, namespace, name: 'a' };
      answers[await answerTo(registry.create(kind, namespace, first))] += 1;
      for (const subresource of [undefined, ...kind.subresources]) {
        await answerTo(registry.update({ ...path, subresource }, second));
      }
      await answerTo(registry.delete(path, { gracePeriodSeconds: 0 }));
      const left = await storage.list(`/registry/${kind.group === '' ? 'core' : kind.group}/${kind.plural}/`);
      for (const { key, revision } of left.entries) {
        if (!key.endsWith('/default') || kind.plural !== 'namespaces') await storage.delete(key, revision);
      }
    });
    await fc.assert(property, { numRuns: 300 });
    t.true(answers.stored + answers.invalid > 150, JSON.stringify(answers));
  });
}
