import { DEFAULT_RUN_DIR } from './status.ts';

/** What must outlive a reboot, which the default folder for sockets and state does not. */
const KEPT_DIR = '/var/lib/fairlead';

/** Where the daemon has its files. */
export function daemonPlaces(runDir: string) {
  return {
    cni: { socketPath: `${runDir}/cni.sock`, stateDir: `${runDir}/cni` },
    stateDir: runDir,
    keptDir: runDir === DEFAULT_RUN_DIR ? KEPT_DIR : runDir,
  } as const;
}
