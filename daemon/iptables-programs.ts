import type { Family } from '../core/address.ts';
import { isMissing } from '../kernel/errors.ts';
import { decodeChain } from '../kernel/netlink/nftables/messages.ts';
import { getChain } from '../kernel/netlink/nftables/requests.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import { readProcNet } from '../kernel/proc-net.ts';
import { enterWords, runProgram } from '../kernel/program.ts';

/** Rules of nf_tables, or those of the kernel's older x_tables. */
export type IptablesKind = (typeof iptablesKinds)[number];
export const iptablesKinds = ['nft', 'legacy'] as const;

const NF_DROP = 0;
/** Another program may hold the lock of the legacy kind. */
const lockWaitSeconds = 5;
const timeoutMs = 10_000;
const nftFamilies = { 4: 'ip', 6: 'ip6' } as const;
const commands = { 4: 'iptables', 6: 'ip6tables' } as const;
/** Tables of the legacy kind that the namespace has. */
const legacyTables = { 4: 'ip_tables_names', 6: 'ip6_tables_names' } as const;

export interface FilterProgramsOptions {
  /** Speaks NETLINK_NETFILTER, in the namespace. */
  readonly socket: NetlinkSocket;
  readonly namespaceFd?: number | undefined;
}

/** The table `filter` of iptables of both kinds, in one namespace. */
export class FilterPrograms {
  readonly #socket: NetlinkSocket;
  readonly #namespaceFd: number | undefined;
  /** By the usual name; some hosts have only one kind, without its name on it. */
  readonly #names = new Map<string, string>();

  constructor({ socket, namespaceFd }: FilterProgramsOptions) {
    this.#socket = socket;
    this.#namespaceFd = namespaceFd;
  }

  /** Whether FORWARD may drop, or the chain is there: else there is nothing to ask a program for. */
  async mayHave(kind: IptablesKind, family: Family, chain: string): Promise<boolean> {
    if (kind === 'legacy') {
      const tables = readProcNet(legacyTables[family], this.#namespaceFd) ?? '';
      return tables.split('\n').includes('filter');
    }
    const forward = await this.#chain(family, 'FORWARD');
    return forward?.policy === NF_DROP || (await this.#chain(family, chain)) !== undefined;
  }

  async #chain(family: Family, chain: string) {
    try {
      const [message] = await this.#socket.request(
        getChain({ family: nftFamilies[family], table: 'filter' }, chain),
      );
      return message && decodeChain(message);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  async save(kind: IptablesKind, family: Family): Promise<string> {
    return await this.#run(kind, family, 'save', ['-t', 'filter']);
  }

  async restore(kind: IptablesKind, family: Family, input: string): Promise<void> {
    await this.#run(kind, family, 'restore', ['--noflush', '-w', `${lockWaitSeconds}`], input);
  }

  async #run(
    kind: IptablesKind,
    family: Family,
    what: 'save' | 'restore',
    words: readonly string[],
    input = '',
  ): Promise<string> {
    const name = await this.#name(kind, family);
    return await this.#start([`${name}-${what}`, ...words], input);
  }

  /** `iptables-nft`, or `iptables` where that is of the kind. */
  async #name(kind: IptablesKind, family: Family): Promise<string> {
    const usual = `${commands[family]}-${kind}`;
    const known = this.#names.get(usual);
    if (known !== undefined) return known;
    for (const name of [usual, commands[family]]) {
      const said = await this.#start([name, '--version'], '').catch(() => undefined);
      // Before 1.8 there was one kind, and nothing said so.
      if (said === undefined || said.includes('nf_tables') !== (kind === 'nft')) continue;
      this.#names.set(usual, name);
      return name;
    }
    throw new Error(`FORWARD drops what it is not told to accept, and there is no program ${usual}`);
  }

  async #start(words: readonly string[], input: string): Promise<string> {
    const { code, stdout, stderr } = await runProgram(words, {
      input,
      timeoutMs,
      enter: enterWords(this.#namespaceFd),
    });
    if (code === '0') return stdout;
    throw new Error(`${words[0]}: ${stderr.trim().split('\n')[0] || `ended with ${code}`}`);
  }
}
