import { CniError, cniCode } from './error.ts';
import type { PluginType } from './plugin-type.ts';
import { ipamPlugin } from './request.ts';
import { fairleadType } from './types/fairlead.ts';

/** Every value of `type` that this plugin can be. */
export const pluginTypes: ReadonlyMap<string, PluginType> = new Map([
  ['fairlead', fairleadType],
  ['bridge', fairleadType],
]);

/** The type, or a refusal that says what there is. */
export function findPluginType(type: string): PluginType | CniError {
  const found = pluginTypes.get(type);
  if (found !== undefined) return found;
  const known = [...pluginTypes.keys(), ipamPlugin].join(', ');
  const message = `type: ${JSON.stringify(type)} is no plugin of Fairlead; there are: ${known}`;
  return new CniError(cniCode.invalidConfig, message, type);
}
