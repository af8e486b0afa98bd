import { constants } from 'node:os';

const names: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).map(([name, number]) => [number, name] as const),
);

/** libc's name of a positive errno ("EEXIST"), or "errno 524" for those without one. */
export function errnoName(errno: number): string {
  // EAGAIN and EWOULDBLOCK, ENOTSUP and EOPNOTSUPP share a number on Linux: always the same one of the two.
  if (errno === constants.errno.EAGAIN) return 'EAGAIN';
  if (errno === constants.errno.EOPNOTSUPP) return 'EOPNOTSUPP';
  return names.get(errno) ?? `errno ${errno}`;
}

/** What the kernel says besides the errno (NETLINK_EXT_ACK). */
export interface ExtendedAck {
  /** NLMSGERR_ATTR_MSG: the kernel's own sentence. */
  readonly detail?: string | undefined;
  /** NLMSGERR_ATTR_OFFS: where in the refused message (its header included) the bad attribute begins, in bytes. */
  readonly offset?: number | undefined;
}

/** The kernel refused an operation. */
export class KernelError extends Error implements ExtendedAck {
  override readonly name = 'KernelError';
  /** What was tried, such as "RTM_NEWROUTE 10.1.0.0/24". */
  readonly operation: string;
  /** "EEXIST". */
  readonly code: string;
  /** Positive. */
  readonly errno: number;
  readonly detail?: string | undefined;
  readonly offset?: number | undefined;

  constructor(operation: string, errno: number, extended: ExtendedAck = {}) {
    const code = errnoName(errno);
    super(`${operation}: ${code}${extended.detail === undefined ? '' : `: ${extended.detail}`}`);
    this.operation = operation;
    this.code = code;
    this.errno = errno;
    this.detail = extended.detail;
    this.offset = extended.offset;
  }

  /** A failed system call of the byte pipe as a KernelError; anything else is given back as it is. */
  static from(operation: string, error: unknown): unknown {
    const errno = (error as { errno?: unknown } | undefined)?.errno;
    if (error instanceof KernelError || !(error instanceof Error) || typeof errno !== 'number') return error;
    return new KernelError(operation, Math.abs(errno), { detail: error.message });
  }
}

const missingCodes: ReadonlySet<string> = new Set(['ENODEV', 'ESRCH', 'ENOENT', 'EADDRNOTAVAIL']);

/** Whether the kernel says that the row (or the link it was on) is not there: no failure of a removal. */
export function isMissing(error: unknown): boolean {
  return error instanceof KernelError && missingCodes.has(error.code);
}
