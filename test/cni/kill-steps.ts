import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { Journal } from '../../cni/journal.ts';
import { AttachmentTable } from '../../kernel/attachment-table.ts';
import { NetlinkSocket } from '../../kernel/netlink/socket.ts';

/**
 * Ends the process by SIGKILL when it has taken so many steps from now on: exchanges with the kernel, lines of the
 * journal, and files that take another's place, before and after they do.
 */
export function killAfterSteps(steps: number): void {
  let taken = 0;
  const step = () => {
    taken += 1;
    if (taken === steps) process.kill(process.pid, 'SIGKILL');
  };
  after(NetlinkSocket.prototype, 'submit', step);
  after(AttachmentTable.prototype, 'write', step);
  after(Journal.prototype, 'append', step);
  const { renameSync } = fs;
  fs.renameSync = (from, to) => {
    step();
    renameSync(from, to);
    step();
  };
  syncBuiltinESMExports();
}

/** Has `step` called whenever the method has done its work. */
function after<K extends string>(
  prototype: { [name in K]: (...args: never[]) => unknown },
  name: K,
  step: () => void,
): void {
  const method = prototype[name];
  prototype[name] = function (this: unknown, ...args: never[]): unknown {
    const result = method.apply(this, args);
    if (!(result instanceof Promise)) {
      step();
      return result;
    }
    return result.then((value) => {
      step();
      return value;
    });
  };
}
