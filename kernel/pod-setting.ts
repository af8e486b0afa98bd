import { constants } from 'node:os';
import type { Mac } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import type { Descriptor } from '../native/index.ts';
import { isMissing, KernelError } from './errors.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { decodeLink, encodeLink, getLinkMessage } from './netlink/route/link.ts';
import { RTM_SETLINK } from './netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from './netlink/socket.ts';
import { Reader, Writer } from './netlink/wire.ts';
import { SysctlTable } from './sysctl.ts';

/** A setting inside a container's namespace, as it is to be, with what it was before. */
export type PodSetting = SysctlSetting | LinkSetting;

export interface SysctlSetting {
  readonly kind: 'sysctl';
  /** Path below /proc/sys, such as "net/core/somaxconn". */
  readonly name: string;
  readonly value: string;
  readonly previous?: string | undefined;
}

/** A property of an interface. Undefined as the value before: not known, and so not restored. */
export type LinkSetting = { readonly ifname: string } & (
  | { readonly kind: 'mac'; readonly value: Mac; readonly previous?: Mac | undefined }
  | { readonly kind: 'mtuBytes'; readonly value: number; readonly previous?: number | undefined }
  | { readonly kind: 'promiscuous'; readonly value: boolean; readonly previous?: boolean | undefined }
  | { readonly kind: 'allMulticast'; readonly value: boolean; readonly previous?: boolean | undefined }
  | { readonly kind: 'txQueueLength'; readonly value: number; readonly previous?: number | undefined }
);

export function podSettingKey(setting: PodSetting): string {
  return setting.kind === 'sysctl' ? `sysctl ${setting.name}` : `${setting.kind} ${setting.ifname}`;
}

export interface PodSettingsOptions {
  /** The container's namespace, open as long as this is used. */
  readonly namespaceFd: Descriptor;
  /** The table is of these: there is no mark of ownership on settings. */
  readonly settings: readonly PodSetting[];
}

/**
 * Settings of one container. Removing a row restores the value before, where the row has it: note it with
 * {@link capture} before the first write. What is gone by then (interface, parameter) is no failure of a removal.
 */
export class PodSettings implements Table<string, PodSetting> {
  readonly name = 'pod-setting';
  readonly #namespaceFd: Descriptor;
  readonly #settings: ReadonlyMap<string, PodSetting>;

  constructor({ namespaceFd, settings }: PodSettingsOptions) {
    this.#namespaceFd = namespaceFd;
    this.#settings = new Map(settings.map((setting) => [podSettingKey(setting), setting]));
  }

  same(wanted: PodSetting, actual: PodSetting): boolean {
    return comparable(wanted) === comparable(actual);
  }

  /** The settings with the values that they have now as those before. */
  async capture(): Promise<PodSetting[]> {
    const rows = await this.read();
    return [...this.#settings].map(([key, setting]) => {
      return { ...setting, previous: rows.get(key)?.value } as PodSetting;
    });
  }

  /** Rows with the values that are there; those before are as given. */
  async read(): Promise<Map<string, PodSetting>> {
    const rows = new Map<string, PodSetting>();
    const sysctls = await this.#sysctls().read();
    const links = await this.#readLinks();
    for (const [key, setting] of this.#settings) {
      const value =
        setting.kind === 'sysctl' ? sysctls.get(setting.name) : links.get(setting.ifname)?.[setting.kind];
      if (value !== undefined) rows.set(key, { ...setting, value } as PodSetting);
    }
    return rows;
  }

  #sysctls(): SysctlTable {
    const keys = [...this.#settings.values()].flatMap((row) => (row.kind === 'sysctl' ? [row.name] : []));
    return new SysctlTable({ keys, namespaceFd: this.#namespaceFd });
  }

  async #readLinks(): Promise<Map<string, LinkState>> {
    const names = [...this.#settings.values()].flatMap((row) => (row.kind === 'sysctl' ? [] : [row.ifname]));
    const links = new Map<string, LinkState>();
    if (names.length === 0) return links;
    using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: this.#namespaceFd });
    for (const name of new Set(names)) {
      const state = await readLink(socket, name);
      if (state !== undefined) links.set(name, state);
    }
    return links;
  }

  async write(changes: readonly Change<string, PodSetting>[]): Promise<Failure<string>[]> {
    const failures: Failure<string>[] = [];
    for (const change of changes) {
      const setting = change.kind === 'delete' ? before(change.actual) : change.wanted;
      const error = setting === undefined ? undefined : await this.#apply(setting);
      if (error === undefined || (change.kind === 'delete' && isMissing(error))) continue;
      failures.push({ key: change.key, kind: change.kind, error });
    }
    return failures;
  }

  async #apply(setting: PodSetting): Promise<Error | undefined> {
    if (setting.kind !== 'sysctl') return this.#applyToLink(setting);
    const { name, value } = setting;
    const table = new SysctlTable({ keys: [name], namespaceFd: this.#namespaceFd });
    return (await table.write([{ kind: 'create', key: name, wanted: value }]))[0]?.error;
  }

  async #applyToLink(setting: LinkSetting): Promise<KernelError | undefined> {
    using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: this.#namespaceFd });
    const operation = `RTM_SETLINK ${setting.ifname} ${setting.kind} ${setting.value}`;
    const index = (await readLink(socket, setting.ifname))?.index;
    if (index === undefined) return new KernelError(operation, constants.errno.ENODEV);
    return (await socket.submit([settingMessage(setting, index, operation)]))[0];
  }
}

/** What undoes a setting; undefined where the value before is not known. */
function before(setting: PodSetting): PodSetting | undefined {
  if (setting.previous === undefined) return undefined;
  return { ...setting, value: setting.previous } as PodSetting;
}

/** The kernel parts the fields of a parameter by tabs, and may have white space around. */
function comparable({ value }: PodSetting): string {
  return String(value).trim().split(/\s+/).join(' ');
}

interface LinkState {
  readonly index: number;
  readonly mac?: Mac | undefined;
  readonly mtuBytes?: number | undefined;
  readonly promiscuous: boolean;
  readonly allMulticast: boolean;
  readonly txQueueLength?: number | undefined;
}

/** What somebody set, not whether the interface is in that mode for another reason, such as a bridge's. */
const IFF_PROMISC = 0x100;
const IFF_ALLMULTI = 0x200;
const IFLA_TXQLEN = 13;
const HEADER_BYTES = 16;

async function readLink(socket: NetlinkSocket, name: string): Promise<LinkState | undefined> {
  try {
    const [answer] = await socket.request(getLinkMessage({ name }));
    if (answer === undefined) return undefined;
    const { index, flags = 0, mac, mtuBytes } = decodeLink(answer.payload);
    if (index === undefined) return undefined;
    const attributes = new Reader(answer.payload, 'link').skip(HEADER_BYTES).attributes();
    return {
      index,
      mac,
      mtuBytes,
      promiscuous: (flags & IFF_PROMISC) !== 0,
      allMulticast: (flags & IFF_ALLMULTI) !== 0,
      txQueueLength: attributes.u32(IFLA_TXQLEN),
    };
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

function settingMessage(setting: LinkSetting, index: number, operation: string): NetlinkMessage {
  return { type: RTM_SETLINK, flags: 0, payload: encodeSetting(setting, index), operation };
}

function encodeSetting(setting: LinkSetting, index: number): Uint8Array {
  const flag = (mask: number, isOn: boolean) =>
    encodeLink({ index, flags: isOn ? mask : 0, changeMask: mask });
  switch (setting.kind) {
    case 'mac':
      return encodeLink({ index, mac: setting.value });
    case 'mtuBytes':
      return encodeLink({ index, mtuBytes: setting.value });
    case 'promiscuous':
      return flag(IFF_PROMISC, setting.value);
    case 'allMulticast':
      return flag(IFF_ALLMULTI, setting.value);
    case 'txQueueLength':
      return new Writer(24).bytes(encodeLink({ index })).attrU32(IFLA_TXQLEN, setting.value).finish();
  }
}
