import { spawnSync } from 'node:child_process';
import type { Descriptor, Lane } from '../native/index.ts';
import { KernelError } from './errors.ts';
import { decodeGeneric, encodeGeneric, NETLINK_GENERIC, readFamilyId } from './netlink/generic.ts';
import {
  decodeIpvsService,
  IPVS_CMD_GET_SERVICE,
  IPVS_GENL_NAME,
  IPVS_GENL_VERSION,
  type IpvsService,
} from './netlink/generic-ipvs.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { NetlinkSocket } from './netlink/socket.ts';

/** The kernel has no IPVS, or lacks a part of it. The message names the part, and what there is to do. */
export class IpvsMissingError extends Error {
  override readonly name = 'IpvsMissingError';
}

const INSTEAD = 'or use the proxy mode nftables, which every kernel from 5.13 on has';

export interface IpvsOptions {
  /** The network namespace; else that of the process. Not kept. */
  readonly namespaceFd?: Descriptor | undefined;
  readonly lane?: Lane | undefined;
  /** Whether the kernel's module may be loaded; default true. */
  readonly load?: boolean | undefined;
}

/** A way to the kernel's IPVS in one network namespace. */
export class IpvsSocket implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #family: number;

  private constructor(socket: NetlinkSocket, family: number) {
    this.#socket = socket;
    this.#family = family;
  }

  /** Throws IpvsMissingError, or KernelError. */
  static async open({ namespaceFd, lane, load = true }: IpvsOptions = {}): Promise<IpvsSocket> {
    using stack = new DisposableStack();
    const socket = stack.use(NetlinkSocket.open(NETLINK_GENERIC, { namespaceFd, lane }));
    const family = await findFamily(socket, load);
    stack.move();
    return new IpvsSocket(socket, family);
  }

  message(command: number, attributes: Uint8Array, operation: string): NetlinkMessage {
    const payload = encodeGeneric({ command, version: IPVS_GENL_VERSION, attributes });
    return { type: this.#family, flags: 0, payload, operation };
  }

  get socket(): NetlinkSocket {
    return this.#socket;
  }

  /** All virtual servers by address, whosever they are; none of those by firewall mark. */
  async services(): Promise<IpvsService[]> {
    const message = this.message(IPVS_CMD_GET_SERVICE, new Uint8Array(), 'IPVS_CMD_GET_SERVICE');
    const answers = await this.#socket.dump(message);
    return answers
      .map(({ payload }) => decodeIpvsService(decodeGeneric(payload).attributes))
      .filter((service) => 'ip' in service);
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}

async function findFamily(socket: NetlinkSocket, load: boolean): Promise<number> {
  try {
    return await readFamilyId(socket, IPVS_GENL_NAME);
  } catch (error) {
    if (!isCode(error, 'ENOENT')) throw error;
  }
  // The kernel loads families of generic netlink by itself, but this one's module does not say that it is one.
  if (load) spawnSync('modprobe', ['ip_vs'], { stdio: 'ignore' });
  try {
    return await readFamilyId(socket, IPVS_GENL_NAME);
  } catch (error) {
    if (!isCode(error, 'ENOENT')) throw error;
    throw new IpvsMissingError(
      `this kernel has no IPVS (module ip_vs): load it with "modprobe ip_vs", ${INSTEAD}`,
    );
  }
}

export function isCode(error: unknown, code: string): boolean {
  return error instanceof KernelError && error.code === code;
}

/** Why a server cannot be as asked for. */
export function schedulerMissing(scheduler: string): IpvsMissingError {
  return new IpvsMissingError(
    `this kernel has no IPVS scheduler "${scheduler}" (module ip_vs_${scheduler}): load it with ` +
      `"modprobe ip_vs_${scheduler}", name another one such as rr, ${INSTEAD}`,
  );
}
