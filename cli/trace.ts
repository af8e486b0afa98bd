import { styleText } from 'node:util';
import { Argument, Command, InvalidArgumentError } from 'commander';
import { type Ip, parseIp } from '../core/address.ts';
import { InputError } from '../core/errors.ts';
import { type Protocol, parseProtocol } from '../proxy/protocol.ts';
import type { TraceRequest } from '../proxy/trace-request.ts';
import { outputOption, wholeNumber } from './options.ts';
import { untilStopped } from './signals.ts';
import { DEFAULT_RUN_DIR } from './status.ts';
import { askTrace } from './trace-ask.ts';
import { type Paint, renderTrace } from './trace-text.ts';
import { type Verification, verifyTrace } from './trace-verify.ts';

const WAIT_S = 30;

interface TraceOptions {
  readonly runDir: string;
  readonly verify: boolean;
  readonly netns?: string;
  readonly wait: number;
  readonly output: string;
}

type Target = Omit<TraceRequest, 'source'>;

export function traceCommand(): Command {
  return new Command('trace')
    .description(
      'Say what the service proxy of this node does with a packet, and which endpoints it may reach',
    )
    .addArgument(
      new Argument('<source>', 'the client: an address, or "node" for this node').argParser(readSource),
    )
    .addArgument(new Argument('<destination>', 'ADDRESS:PORT, and /udp or /sctp').argParser(readTarget))
    .option('--verify', "send one packet, and hold the kernel's own trace against the plan", false)
    .option('--netns <path>', "the client's network namespace, to send from; with --verify", undefined)
    .option(
      '--wait <seconds>',
      'with --verify, and no namespace to send from: how long to wait for such a packet',
      wholeNumber(1, 3600),
      WAIT_S,
    )
    .option(
      '--run-dir <path>',
      'the runtime directory of the agent, or of a proxy by itself',
      DEFAULT_RUN_DIR,
    )
    .addOption(outputOption())
    .addHelpText(
      'after',
      '\nExamples:' +
        '\n  fairlead trace 10.244.1.9 10.96.0.10:80' +
        '\n  fairlead trace node [fd00:10:96::10]:53/udp --verify' +
        '\n  fairlead trace 10.244.1.9 10.96.0.10:80 --verify --netns /run/netns/cni-1234' +
        '\n\n--verify puts a table of its own into nftables for as long as it runs, and needs root and Linux 5.12. It ends' +
        '\nwith 1 when the kernel did something else than the plan says.',
    )
    .action(run);
}

function readSource(text: string): Ip | 'node' {
  const source = text === 'node' ? text : parseIp(text);
  if (source !== undefined) return source;
  throw new InvalidArgumentError(`"${text}" is not an address such as 10.244.1.9, nor "node".`);
}

/** `10.96.0.10:80`, `[fd00::1]:53/udp` */
export function readTarget(text: string): Target {
  const [, v6, v4, portText, protocolText = 'tcp'] =
    /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})(?:\/(\w+))?$/.exec(text) ?? [];
  const destination = parseIp(v6 ?? v4 ?? '');
  const protocol: Protocol | undefined = parseProtocol(protocolText.toUpperCase());
  if (destination === undefined || portText === undefined || protocol === undefined) {
    throw new InvalidArgumentError(
      `"${text}" is not an address and port such as 10.96.0.10:80, 10.96.0.10:53/udp or [fd00::1]:80.`,
    );
  }
  return { destination, port: wholeNumber(1, 65_535)(portText), protocol };
}

async function run(source: Ip | 'node', target: Target, options: TraceOptions): Promise<void> {
  if (options.netns !== undefined && !options.verify)
    throw new InputError('options', [
      { path: '--netns', message: 'is where to send from: it needs --verify' },
    ]);
  const answer = await askTrace(options.runDir, { source, ...target });
  const verification = options.verify ? await verify(answer, options) : undefined;
  const result = { ...answer, ...(verification && { verification }) };
  const isJson = options.output === 'json';
  process.stdout.write(isJson ? `${JSON.stringify(result, null, 2)}\n` : renderTrace(result, paint));
  if (verification !== undefined && !verification.agrees) process.exitCode = 1;
}

/** Ends early, with the kernel as it was, when the command is stopped. */
async function verify(
  answer: Awaited<ReturnType<typeof askTrace>>,
  { netns, wait }: TraceOptions,
): Promise<Verification> {
  const stop = new AbortController();
  void untilStopped().then((signal) => stop.abort(new Error(`stopped by ${signal}`)));
  const onWait = () => {
    const { source, destination, port, protocol } = answer.trace.packet;
    say(`waiting ${wait} s for a packet from ${source} to ${destination}, port ${port}/${protocol}`);
  };
  const waitMs = wait * 1000;
  const result = await verifyTrace(answer, { netns, waitMs, onWait, signal: stop.signal });
  stop.signal.throwIfAborted();
  return result;
}

function say(text: string): void {
  process.stderr.write(`fairlead trace: ${text}\n`);
}

/** Colour on terminals only. */
const paint: Paint = (format, text) => styleText(format, text, { stream: process.stdout });
