import { CniError, cniCode } from './error.ts';

/** What CNI_ARGS says, as far as it is known here. Values are text, not yet looked at. */
export interface CniArgs {
  readonly ip?: string;
  readonly mac?: string;
  readonly podNamespace?: string;
  readonly podName?: string;
  readonly podUid?: string;
  readonly sandboxId?: string;
}

const known: ReadonlyMap<string, keyof CniArgs> = new Map([
  ['IP', 'ip'],
  ['MAC', 'mac'],
  ['K8S_POD_NAMESPACE', 'podNamespace'],
  ['K8S_POD_NAME', 'podName'],
  ['K8S_POD_UID', 'podUid'],
  ['K8S_POD_INFRA_CONTAINER_ID', 'sandboxId'],
]);

/**
 * Reads `K=V;K=V`. A key that is not known is refused unless `IgnoreUnknown=1` (or true) is among them, as in
 * the reference plugins.
 */
export function parseCniArgs(text: string): CniArgs | CniError {
  if (text === '') return {};
  const args: { -readonly [key in keyof CniArgs]: string } = {};
  const unknown: string[] = [];
  let ignoreUnknown = false;
  for (const pair of text.split(';')) {
    const [key, value, ...more] = pair.split('=');
    if (key === undefined || value === undefined || more.length > 0) {
      return refuse(`ARGS: invalid pair ${JSON.stringify(pair)}`);
    }
    const name = known.get(key);
    if (name !== undefined) args[name] = value;
    else if (key !== 'IgnoreUnknown') unknown.push(pair);
    else if (/^(1|true)$/i.test(value)) ignoreUnknown = true;
    else if (!/^(0|false)$/i.test(value))
      return refuse(`ARGS: IgnoreUnknown is no boolean: ${JSON.stringify(value)}`);
  }
  if (unknown.length === 0 || ignoreUnknown) return args;
  return refuse(`ARGS: unknown args [${unknown.map((pair) => JSON.stringify(pair)).join(' ')}]`);
}

function refuse(message: string): CniError {
  return new CniError(cniCode.invalidEnvironment, `CNI_ARGS: ${message}`);
}
