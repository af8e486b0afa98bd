/** The part of metav1.Status that callers decide by. */
export interface StatusCause {
  readonly reason?: string;
  readonly message?: string;
  readonly field?: string;
}

/** A refusal by the API server. Connection failures are Node's own errors. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** HTTP status, or the code inside an ERROR event of a watch. */
  readonly status: number;
  /** "NotFound", "AlreadyExists", "Conflict", "Expired", "Invalid"…; "" when the server sent no Status. */
  readonly reason: string;
  readonly causes: readonly StatusCause[];
  /** What the server asked for with Retry-After. */
  readonly retryAfterMs: number | undefined;

  constructor(
    status: number,
    reason: string,
    message: string,
    causes: readonly StatusCause[] = [],
    retryAfterMs?: number,
  ) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.causes = causes;
    this.retryAfterMs = retryAfterMs;
  }
}

/** From the object of an ERROR event or the body of a refused request. */
export function errorOfStatus(body: unknown, status = 500, retryAfterMs?: number): ApiError {
  const given = (typeof body === 'object' && body !== null ? body : {}) as {
    code?: number;
    reason?: string;
    message?: string;
    details?: { causes?: StatusCause[]; retryAfterSeconds?: number };
  };
  const seconds = given.details?.retryAfterSeconds;
  return new ApiError(
    given.code ?? status,
    given.reason ?? '',
    given.message ?? `the server answered ${given.code ?? status}`,
    given.details?.causes ?? [],
    retryAfterMs ?? (seconds === undefined ? undefined : seconds * 1000),
  );
}
