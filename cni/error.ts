/** Error codes of the CNI specification §5; 8 and 999 are those of the Go library that runtimes know. */
export const cniCode = {
  incompatibleVersion: 1,
  invalidEnvironment: 4,
  ioFailure: 5,
  decodingFailure: 6,
  invalidConfig: 7,
  invalidNamespace: 8,
  tryAgain: 11,
  notAvailable: 50,
  /** As before; and pods that are there may not reach everybody. */
  limitedConnectivity: 51,
  internal: 999,
} as const;

/** What quotes its input would else be as long as that, which is up to a mebibyte. */
const textLengthMax = 8192;

function shorten(text: string): string {
  if (text.length <= textLengthMax) return text;
  return `${text.slice(0, textLengthMax)}… (${text.length} characters)`;
}

/** A refusal that the runtime gets to see as error JSON on the plugin's standard output. */
export class CniError extends Error {
  override readonly name = 'CniError';
  readonly code: number;
  /** What the message is about, such as the value that was refused; may be empty. */
  readonly details: string;

  constructor(code: number, message: string, details = '') {
    super(shorten(message));
    this.code = code;
    this.details = shorten(details);
  }

  /** Any error as one that a runtime can be told: what is not a CniError becomes code 999. */
  static from(error: unknown): CniError {
    if (error instanceof CniError) return error;
    return new CniError(cniCode.internal, error instanceof Error ? error.message : String(error));
  }
}
