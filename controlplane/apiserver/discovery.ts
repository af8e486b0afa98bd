import type { Kind } from '../registry/kind.ts';
import { apiVersionOf } from '../registry/prepare.ts';

const OBJECT_VERBS = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'];
const PART_VERBS = ['get', 'patch', 'update'];

/** The Kubernetes release whose API ours is. */
const VERSION = {
  major: '1',
  minor: '34',
  gitVersion: 'v1.34.0+fairlead',
  gitCommit: '',
  gitTreeState: 'clean',
  buildDate: '1970-01-01T00:00:00Z',
  goVersion: '',
  compiler: '',
  platform: `${process.platform}/${process.arch === 'x64' ? 'amd64' : process.arch}`,
};

/** The documents that say what the server has, by path. */
export function discoveryDocuments(kinds: readonly Kind[]): ReadonlyMap<string, object> {
  const groups = Map.groupBy(kinds, ({ group }) => group);
  const named = [...groups]
    .filter(([group]) => group !== '')
    .map(([group, members]) => groupDocument(group, members));
  const documents = new Map<string, object>([
    ['/version', VERSION],
    ['/api', { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] }],
    ['/apis', { kind: 'APIGroupList', apiVersion: 'v1', groups: named }],
  ]);
  for (const document of named)
    documents.set(`/apis/${document.name}`, { kind: 'APIGroup', apiVersion: 'v1', ...document });
  for (const [groupVersion, members] of Map.groupBy(kinds, apiVersionOf)) {
    const root = members[0]?.group === '' ? '/api' : '/apis';
    documents.set(`${root}/${groupVersion}`, {
      kind: 'APIResourceList',
      apiVersion: 'v1',
      groupVersion,
      resources: members.flatMap(resourceDocuments),
    });
  }
  return documents;
}

function groupDocument(name: string, kinds: readonly Kind[]) {
  const versions = [...new Set(kinds.map(({ version }) => version))].map((version) => ({
    groupVersion: `${name}/${version}`,
    version,
  }));
  return { name, versions, preferredVersion: versions[0] };
}

function resourceDocuments(kind: Kind): object[] {
  const { plural: name, singular: singularName, namespaced, shortNames, categories } = kind;
  const main = {
    name,
    singularName,
    namespaced,
    kind: kind.kind,
    verbs:
      kind.hasDeleteCollection === false
        ? OBJECT_VERBS.filter((verb) => verb !== 'deletecollection')
        : OBJECT_VERBS,
    ...(shortNames.length > 0 ? { shortNames } : {}),
    ...(categories === undefined ? {} : { categories }),
  };
  const parts = kind.subresources.map((part) => ({
    name: `${name}/${part}`,
    singularName: '',
    namespaced,
    kind: kind.kind,
    verbs: part === 'finalize' ? ['update'] : PART_VERBS,
  }));
  return [main, ...parts];
}
