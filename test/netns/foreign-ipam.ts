import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CallResult, type CniNode, type Pod, testConfig } from '../cni/node.ts';

/** An IPAM program of others: it keeps a file for each address that it gave, and fails when told to. */
export class ForeignIpam {
  readonly #node: CniNode;
  readonly #bin: string;
  readonly #held: string;
  readonly #broken: string;

  constructor(node: CniNode) {
    this.#node = node;
    [this.#bin, this.#held, this.#broken] = ['bin', 'held', 'broken'].map((name) =>
      join(node.directory, name),
    ) as [string, string, string];
    mkdirSync(this.#bin);
    mkdirSync(this.#held);
    const path = join(this.#bin, 'others');
    writeFileSync(path, this.#script());
    chmodSync(path, 0o755);
  }

  #script(): string {
    const ip = '{"address":"10.77.0.9/24","gateway":"10.77.0.1"}';
    return `#!/bin/sh
case $CNI_COMMAND in
ADD) touch ${this.#held}/$CNI_CONTAINERID; echo '{"cniVersion":"1.0.0","ips":[${ip}]}' ;;
DEL)
  if [ -e ${this.#broken} ]; then echo '{"code":7,"msg":"others is broken"}'; exit 1; fi
  rm -f ${this.#held}/$CNI_CONTAINERID ;;
esac
`;
  }

  /** Containers that have an address. */
  held(): string[] {
    return readdirSync(this.#held);
  }

  /** As if it had been asked by another plugin. */
  hold(containerId: string): void {
    writeFileSync(join(this.#held, containerId), '');
  }

  /** Whether every DEL is refused from now on. */
  break(isBroken: boolean): void {
    if (isBroken) writeFileSync(this.#broken, '');
    else if (existsSync(this.#broken)) rmSync(this.#broken);
  }

  readonly config = testConfig({ ipam: { type: 'others' } });

  call(verb: string, pod: Partial<Pod>, config: object = this.config): Promise<CallResult> {
    return this.#node.call(verb, { containerId: '', ...pod, config, env: { CNI_PATH: this.#bin } });
  }
}
