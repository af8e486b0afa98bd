/** How often the kernel is looked at, and how. */
export interface Looks {
  /** Whether our chains are there; short. */
  readonly areThere: () => Promise<boolean>;
  /** Whether they are as wanted, which reads all of them. */
  readonly areAsWanted: () => Promise<boolean>;
  /** After one look, before the next; default: 5 s, more where a look takes long. */
  readonly checkIntervalMs?: number | undefined;
  /** Between two looks at everything; default 5 minutes. */
  readonly auditIntervalMs?: number | undefined;
}

/** Each look at whether they are there starts six short programs. */
const CHECK_INTERVAL_MS = 5_000;
/** With long tables even these take long: then they may take this part of the time. */
const CHECK_SHARE = 0.05;
const AUDIT_INTERVAL_MS = 5 * 60_000;
/** For so long all is believed to be as a look at everything found it. */
const TRUST_MS = 2 * AUDIT_INTERVAL_MS;

/** Looks at the kernel's chains beside all other work: nothing waits for it. */
export class ChainWatch {
  readonly #looks: Looks;
  #isLooking = false;
  #isDisturbed = false;
  #lookAgainAtMs = 0;
  #auditedAtMs: number | undefined;
  #trustedUntilMs = 0;
  /** A look that began before everything was written anew says nothing of what is there afterwards. */
  #generation = 0;

  constructor(looks: Looks) {
    this.#looks = looks;
  }

  /** What looks found since the last call. Starts the next one when it is time. */
  isDisturbed(): boolean {
    const isDisturbed = this.#isDisturbed;
    this.#isDisturbed = false;
    if (isDisturbed) this.distrust();
    else if (!this.#isLooking && performance.now() >= this.#lookAgainAtMs) void this.#look();
    return isDisturbed;
  }

  /** A look at everything found it right, not long ago, and nothing spoke against it since. */
  get isTrusted(): boolean {
    return performance.now() < this.#trustedUntilMs;
  }

  /** Nobody knows now what is in the kernel. */
  distrust(): void {
    this.#trustedUntilMs = 0;
    this.#isDisturbed = false;
    this.#generation += 1;
  }

  /** Everything was just read and put right. */
  righted(): void {
    this.distrust();
    this.#auditedAtMs = performance.now();
  }

  async #look(): Promise<void> {
    const { checkIntervalMs, auditIntervalMs = AUDIT_INTERVAL_MS } = this.#looks;
    const startMs = performance.now();
    this.#isLooking = true;
    const isAudit = startMs - (this.#auditedAtMs ?? startMs) >= auditIntervalMs;
    const generation = this.#generation;
    const isRight = await this.#isRight(isAudit);
    if (generation === this.#generation) {
      if (isRight && isAudit) this.#trustedUntilMs = startMs + TRUST_MS;
      this.#isDisturbed = !isRight;
    }
    const endMs = performance.now();
    if (isAudit) this.#auditedAtMs = endMs;
    const restMs = Math.max(CHECK_INTERVAL_MS, (endMs - startMs) / CHECK_SHARE);
    this.#lookAgainAtMs = endMs + (checkIntervalMs ?? restMs);
    this.#isLooking = false;
  }

  /** Where nothing can be read, something is wrong. */
  async #isRight(isAudit: boolean): Promise<boolean> {
    const { areThere, areAsWanted } = this.#looks;
    return (await areThere().catch(() => false)) && (!isAudit || (await areAsWanted().catch(() => false)));
  }
}
