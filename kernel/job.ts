import { type Begun, type Descriptor, type Lane, native, type Reply, type Step } from '../native/index.ts';
import { KernelError } from './errors.ts';
import { frameMessages, type NetlinkMessage } from './netlink/message.ts';
import { AF_NETLINK, readAnswers, SOCK_RAW } from './netlink/socket.ts';

/** Messages that go to the kernel as one datagram. */
export interface JobStep {
  /** Where a socket is opened for this step; undefined: the runner's own socket. */
  readonly namespaceFd?: Descriptor | undefined;
  readonly messages: readonly NetlinkMessage[];
}

/** The first step of a job, which the kernel may be at work on. */
export interface BegunJob {
  readonly step: JobStep;
  readonly sequence: number;
  readonly begun: Begun;
}

/** The kernel did not do all of a job. */
export interface Refusal {
  /** Steps after this one were not begun; earlier ones were done. */
  readonly step: number;
  readonly messages: readonly NetlinkMessage[];
  /** Per message of the step; the kernel goes on past a refused one. */
  readonly errors: readonly (KernelError | undefined)[];
  /** The first of them, or what kept the step from being asked at all. */
  readonly error: KernelError;
}

/**
 * Runs jobs of one or more datagrams, each in its namespace, on one thread of its own. Acknowledgements are not
 * asked for: the kernel answers inside the send, and silence means that everything was done.
 */
export class JobRunner implements Disposable {
  readonly lane: Lane;
  readonly #protocol: number;
  readonly #fd: Descriptor;
  #sequence = 1;

  constructor(protocol: number, namespaceFd: Descriptor = -1) {
    this.#protocol = protocol;
    this.#fd = native.openSocket(namespaceFd, AF_NETLINK, SOCK_RAW, protocol, 0);
    this.lane = native.lane();
  }

  /** Begins a job with its first step, while the caller puts together the others for {@link run}. */
  begin(step: JobStep): BegunJob {
    const sequence = this.#take(step.messages.length);
    return { step, sequence, begun: native.begin(this.lane, [this.#frame(step, sequence)]) };
  }

  /** Undefined when everything was done; the reply is sent then. A step that was begun is the first one. */
  async run(later: readonly JobStep[], reply?: Reply, first?: BegunJob): Promise<Refusal | undefined> {
    const taken = later.map(({ messages }) => this.#take(messages.length));
    const framed = later.map((step, index) => this.#frame(step, taken[index] ?? 0));
    const steps = first === undefined ? later : [first.step, ...later];
    const sequences = first === undefined ? taken : [first.sequence, ...taken];
    let answers: Buffer[];
    try {
      answers = await native.run(this.lane, framed, reply, first?.begun);
    } catch (error) {
      return notAsked(steps, error);
    }
    const last = answers.length - 1;
    const step = steps[last];
    const answer = answers[last];
    if (
      step === undefined ||
      answer === undefined ||
      (answer.length === 0 && answers.length === steps.length)
    ) {
      return undefined;
    }
    const { outcome: errors } = readAnswers(step.messages, sequences[last] ?? 0, answer);
    const error = errors.find((one) => one !== undefined);
    return error === undefined ? undefined : { step: last, messages: step.messages, errors, error };
  }

  #frame({ namespaceFd, messages }: JobStep, sequence: number): Step {
    const data = frameMessages(messages, sequence);
    return namespaceFd === undefined
      ? { fd: this.#fd, data }
      : { namespaceFd, protocol: this.#protocol, data };
  }

  #take(count: number): number {
    const first = this.#sequence;
    this.#sequence = (first + count) >>> 0;
    return first;
  }

  /** Jobs begun must have ended. */
  [Symbol.dispose](): void {
    this.lane.close();
    native.close(this.#fd);
  }
}

/** A system call failed in some step. It is told as the last one, so that earlier ones count as done. */
function notAsked(steps: readonly JobStep[], cause: unknown): Refusal {
  const error = KernelError.from('netlink job', cause);
  if (!(error instanceof KernelError)) throw cause;
  const step = steps.length - 1;
  return { step, messages: steps[step]?.messages ?? [], errors: [], error };
}
