import { IptablesError, type Programs, type Variant } from '../../../proxy/iptables/program.ts';
import { FakeIptables } from './fake-iptables.ts';

/** Programs over a {@link FakeIptables} that refuse what a kernel without some matches would. */
export class FakePrograms implements Programs {
  readonly kernel = new FakeIptables();
  /** Every input that was given, taken or not. */
  readonly inputs: string[] = [];
  /** Lines that are refused. */
  refused: RegExp | undefined;
  /** What `save` waits for. */
  reading: Promise<void> = Promise.resolve();
  /** Families that the kernel or the host has no iptables for, with what the program says. */
  readonly missing = new Map<4 | 6, IptablesError>();
  readonly #variant: Variant;

  constructor(variant: Variant = 'nft') {
    this.#variant = variant;
  }

  async save(): Promise<string> {
    const text = this.kernel.save();
    await this.reading;
    return text;
  }

  async check(family: 4 | 6): Promise<void> {
    const error = this.missing.get(family);
    if (error !== undefined) throw error;
  }

  async restore(family: 4 | 6, input: string): Promise<void> {
    await this.check(family);
    this.inputs.push(input);
    const bad = this.refused && input.split('\n').some((line) => this.refused?.test(line));
    // As the legacy kind: it does not say which line.
    if (bad) throw new IptablesError('iptables-restore: line 7 failed (line 7: "COMMIT")', { code: '1' });
    this.kernel.restore(input);
  }

  async hasRules(_family: 4 | 6, table: string, chain: string): Promise<boolean> {
    return (this.kernel.saved().get(`${table} ${chain}`)?.length ?? 0) > 0;
  }

  async kind(): Promise<Variant> {
    return this.#variant;
  }
}
