/** One reason of a refusal, with the field it is about. */
export interface StatusCause {
  readonly reason?: string;
  readonly message?: string;
  readonly field?: string;
}

/** `details` of a metav1.Status: what the refusal is about. */
export interface StatusDetails {
  readonly name?: string;
  readonly group?: string;
  /** A kind, or a plural resource name, as the API server's messages have it. */
  readonly kind?: string;
  readonly uid?: string;
  readonly causes?: readonly StatusCause[];
  readonly retryAfterSeconds?: number;
}

/** A refusal by the API server. Connection failures are Node's own errors. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** HTTP status, or the code inside an ERROR event of a watch. */
  readonly status: number;
  /** "NotFound", "AlreadyExists", "Conflict", "Expired", "Invalid"…; "" when the server sent no Status. */
  readonly reason: string;
  readonly details: StatusDetails | undefined;
  /** With "Expired" for a page of a list: where the list may go on, in a newer state. */
  readonly continue: string | undefined;

  constructor(status: number, reason: string, message: string, details?: StatusDetails, next?: string) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.details = details;
    this.continue = next;
  }

  get causes(): readonly StatusCause[] {
    return this.details?.causes ?? [];
  }

  /** How long the server asked to wait. */
  get retryAfterMs(): number | undefined {
    const seconds = this.details?.retryAfterSeconds;
    return seconds === undefined ? undefined : seconds * 1000;
  }
}

/** From the object of an ERROR event or the body of a refused request. */
export function errorOfStatus(body: unknown, status = 500, retryAfterSeconds?: number): ApiError {
  const given = (typeof body === 'object' && body !== null ? body : {}) as {
    code?: number;
    reason?: string;
    message?: string;
    metadata?: { continue?: string };
    details?: StatusDetails;
  };
  const code = given.code ?? status;
  return new ApiError(
    code,
    given.reason ?? '',
    given.message ?? `the server answered ${code}`,
    retryAfterSeconds === undefined ? given.details : { ...given.details, retryAfterSeconds },
    given.metadata?.continue,
  );
}
