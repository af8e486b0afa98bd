/** Wakes one waiting loop. A kick that comes while the loop works is there when it waits again. */
export class Kick {
  #kicked = false;
  #wake: (() => void) | undefined;

  kick(): void {
    this.#kicked = true;
    this.#wake?.();
  }

  /** Returns after a kick, after `timeoutMs`, or when aborted. Says whether it was kicked, and forgets it. */
  async wait(timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    if (!this.#kicked && !signal.aborted) await this.#sleep(timeoutMs, signal);
    const kicked = this.#kicked;
    this.#kicked = false;
    return kicked;
  }

  #sleep(timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(wake, timeoutMs);
      signal.addEventListener('abort', wake);
      this.#wake = wake;
    });
  }
}
