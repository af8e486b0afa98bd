import { readLoopback, writeLoopback } from '../kernel/loopback.ts';
import { CniError, cniCode } from './error.ts';
import type { PluginType } from './plugin-type.ts';
import { ipamPlugin } from './request.ts';
import { bridgeType } from './types/bridge.ts';
import { bandwidthType, firewallType, portmapType, tuningType } from './types/chained.ts';
import { fairleadType } from './types/fairlead.ts';
import { delegateFlannel, removeScratch } from './types/flannel.ts';
import { checkLoopback, planLoopback } from './types/loopback.ts';
import { ptpType } from './types/ptp.ts';

/** Makes no rows: a container's lo is nobody else's. */
const loopbackType: PluginType = {
  kind: 'chained',
  parse: () => ({
    kind: 'chained',
    async plan({ namespaceFd, sandbox, previous }) {
      await writeLoopback(namespaceFd, true);
      const result = planLoopback(await readLoopback(namespaceFd), { sandbox, previous });
      return result instanceof CniError ? result : { rows: {}, result };
    },
    check: async ({ namespaceFd }) => checkLoopback(await readLoopback(namespaceFd)),
  }),
  undo: (namespaceFd) => writeLoopback(namespaceFd, false),
};

/** Another type with what the node's agent has written down. */
const flannelType: PluginType = {
  kind: 'interface',
  readsFiles: true,
  parse(config, input) {
    const delegated = delegateFlannel(config);
    if (delegated instanceof CniError) return delegated;
    const { type, configText } = delegated;
    const own = pluginTypes.get(type);
    // As with flannel's own plugin it may be any program.
    if (own === undefined) return { kind: 'foreign', type, configText };
    return own.parse(delegated.config, { ...input, configText });
  },
  delBefore: removeScratch,
};

/** Every value of `type` that this plugin can be. */
export const pluginTypes: ReadonlyMap<string, PluginType> = new Map([
  ['fairlead', fairleadType],
  ['bridge', bridgeType],
  ['ptp', ptpType],
  ['flannel', flannelType],
  ['portmap', portmapType],
  ['bandwidth', bandwidthType],
  ['tuning', tuningType],
  ['firewall', firewallType],
  ['loopback', loopbackType],
]);

/** The type, or a refusal that says what there is. */
export function findPluginType(type: string): PluginType | CniError {
  const found = pluginTypes.get(type);
  if (found !== undefined) return found;
  const known = [...pluginTypes.keys(), ipamPlugin].join(', ');
  const message = `type: ${JSON.stringify(type)} is no plugin of Fairlead; there are: ${known}`;
  return new CniError(cniCode.invalidConfig, message, type);
}
