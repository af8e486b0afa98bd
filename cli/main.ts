#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { InputError } from '../core/errors.ts';
import { cleanupCommand } from './cleanup.ts';
import { clusterCommand } from './cluster/command.ts';
import { completionCommand } from './completion.ts';
import { controlPlaneCommand } from './controlplane.ts';
import { flannelCommand } from './flannel.ts';
import { installCommand } from './install.ts';
import { nodeCommand } from './node.ts';
import { proxyCommand } from './proxy.ts';
import { statusCommand } from './status.ts';
import { traceCommand } from './trace.ts';
import { VERSION } from './version.ts';

/** Exit codes: 0 done, 1 it failed, 2 the command line or the configuration cannot be used. */
const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

export function buildProgram(): Command {
  const program = new Command('fairlead')
    .description('The network of a Kubernetes cluster: pods, services, and a small control plane')
    .version(VERSION)
    .exitOverride()
    .enablePositionalOptions() // flanneld's --version is its own
    .showHelpAfterError('(see --help)');
  program
    .addCommand(nodeCommand())
    .addCommand(flannelCommand())
    .addCommand(proxyCommand())
    .addCommand(controlPlaneCommand())
    .addCommand(clusterCommand())
    .addCommand(statusCommand())
    .addCommand(traceCommand())
    .addCommand(installCommand())
    .addCommand(cleanupCommand())
    .addCommand(completionCommand(program));
  inheritSettings(program);
  return program;
}

/** Commander gives settings only to commands made by `.command()`. */
function inheritSettings(parent: Command): void {
  for (const child of parent.commands) {
    child.copyInheritedSettings(parent);
    inheritSettings(child);
  }
}

async function main(): Promise<void> {
  try {
    await buildProgram().parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
      return;
    }
    process.exitCode = error instanceof InputError ? EXIT_USAGE : EXIT_FAILED;
    process.stderr.write(`fairlead: ${error instanceof Error ? error.message : String(error)}\n`);
    if (process.env.FAIRLEAD_DEBUG) process.stderr.write(`${(error as Error).stack}\n`);
  }
}

await main();
