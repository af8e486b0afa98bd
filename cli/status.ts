import { Command } from 'commander';
import { askStatus, type NodeStatus, statusSockets } from './node-status.ts';
import { outputOption } from './options.ts';
import { proxyLines } from './proxy-status.ts';

export const DEFAULT_RUN_DIR = '/run/fairlead';

export function statusCommand(): Command {
  return new Command('status')
    .description('Show what the node agent on this machine does, or the service proxy by itself')
    .option('--run-dir <path>', "the agent's runtime directory", DEFAULT_RUN_DIR)
    .addOption(outputOption())
    .action(async ({ runDir, output }: { runDir: string; output: string }) => {
      const status =
        (await askStatus(`${runDir}/${statusSockets.node}`)) ??
        (await askStatus(`${runDir}/${statusSockets.proxy}`));
      if (status === undefined) {
        throw new Error(
          `no node agent answers on ${runDir}/${statusSockets.node}; start one with: fairlead node`,
        );
      }
      process.stdout.write(
        output === 'json' ? `${JSON.stringify(status, null, 2)}\n` : renderNodeStatus(status),
      );
    });
}

export function renderNodeStatus(status: NodeStatus): string {
  const lines: [string, string][] = [
    ['node', status.name],
    ['ready', status.ready ? 'yes' : 'no'],
    ['running since', `${status.startedAt} (pid ${status.pid})`],
    ...fields(status.daemon ?? {}).filter(([name]) => name !== 'node' && name !== 'ready'),
    ...(status.proxy ? proxyLines(status.proxy) : []),
  ];
  const width = Math.max(...lines.map(([name]) => name.length));
  return lines.map(([name, value]) => `${name.padEnd(width)}  ${value}\n`).join('');
}

function fields(object: object): [string, string][] {
  return Object.entries(object).map(([name, value]) => [
    name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`),
    Array.isArray(value) && value.every((item) => typeof item !== 'object')
      ? value.join(', ') || 'none'
      : typeof value === 'object' && value !== null
        ? textOf(value)
        : typeof value === 'number'
          ? String(Math.round(value * 10) / 10)
          : String(value),
  ]);
}

/** Numbers by name are "name: number"; anything else is for machines. */
function textOf(value: object): string {
  const entries = Object.entries(value);
  const isNumbers = !Array.isArray(value) && entries.every(([, one]) => typeof one === 'number');
  return isNumbers
    ? entries.map(([name, one]) => `${name}: ${one}`).join(', ') || 'none'
    : JSON.stringify(value);
}
