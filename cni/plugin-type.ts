import type { Ip } from '../core/address.ts';
import type { AttachmentRow } from '../kernel/attachment.ts';
import type { PodSetting } from '../kernel/pod-setting.ts';
import type { CniArgs } from './args.ts';
import type { CniError } from './error.ts';
import type { Fields } from './fields.ts';
import type { IpamResult } from './ipam-result.ts';
import type { NodeNetwork } from './node-network.ts';
import type { AttachmentId, BridgeNeed, PartRows } from './part.ts';
import type { RangeSet } from './ranges.ts';
import type { Result } from './result.ts';
import type { CniVersion } from './version.ts';

/** What a configuration is read with. */
export interface ParseInput {
  readonly cniVersion: CniVersion;
  readonly args: CniArgs;
  /** The configuration as it came, where only the text tells. */
  readonly configText: string;
}

/** What ADD is to make, and to answer. */
export interface Planned {
  readonly rows: PartRows;
  /** What the rows lie on. */
  readonly bridge?: BridgeNeed | undefined;
  readonly result: Result;
}

/** What ADD begins with, and what all the rest lies on. */
export interface PlannedPair {
  /** Its pair of links is as it will be; undefined: known only with the rest. */
  readonly attachment?: AttachmentRow | undefined;
  readonly bridge?: BridgeNeed | undefined;
  /** All of it, the pair included. */
  rest(): Planned | CniError;
}

/** A program found in CNI_PATH. */
export interface ForeignPlugin {
  readonly kind: 'foreign';
  readonly type: string;
  /** The configuration that it gets. */
  readonly configText: string;
}

/** Whom the addresses come from. */
export type IpamChoice =
  /** Out of the node's own book: one of each set. */
  | {
      readonly kind: 'own';
      readonly rangeSets: readonly RangeSet[];
      /** Asked for by the runtime. */
      readonly requested: readonly Ip[];
      /** Files of host-local count, too. */
      readonly imports: boolean;
      /** Path of a resolv.conf(5) whose content is the dns of the result. */
      readonly resolvConf?: string | undefined;
    }
  | ForeignPlugin
  | { readonly kind: 'none' };

/** What a container's end is planned with. */
export interface InterfaceCall {
  readonly id: AttachmentId;
  /** CNI_NETNS as given. */
  readonly sandbox: string;
  readonly args: CniArgs;
  readonly ipam: IpamResult;
}

/** A network as a container is to be attached to it. */
export interface InterfaceNetwork {
  readonly ipam: IpamChoice;
  plan(call: InterfaceCall): PlannedPair | CniError;
}

/** A plugin that makes the interface: the first of a chain. */
export interface InterfacePlugin {
  readonly kind: 'interface';
  /** What the configuration means on this node, of which only the subnets may be unknown. */
  network(node: NodeNetwork | undefined): InterfaceNetwork | CniError;
}

/** What is known about an interface that another plugin of the chain made. */
export interface ChainedCall {
  readonly id: AttachmentId;
  /** CNI_NETNS as given. */
  readonly sandbox: string;
  /** Open for the time of the call. */
  readonly namespaceFd: number;
  /** `prevResult`, undefined where there is none. */
  readonly previous: Result | undefined;
  /** The parts that plugins before made for the same attachment. */
  readonly earlier: readonly PartRows[];
  readonly node: ChainedNode;
}

/** What a chained plugin may ask the kernel. */
export interface ChainedNode {
  /** The other end of the container's interface. Undefined: it is no veth. */
  peerOf(namespaceFd: number, ifname: string): Promise<Peer | undefined>;
  /** The settings with the values that they have now as those before. */
  capture(namespaceFd: number, settings: readonly PodSetting[]): Promise<readonly PodSetting[]>;
  /** Name of the link by which packets to the address leave. */
  deviceTo(ip: Ip): Promise<string | undefined>;
  /** Whether firewalld guards the node. */
  hasFirewalld(): Promise<boolean>;
}

export interface Peer {
  readonly index: number;
  /** Undefined: it is not in the node's namespace. */
  readonly name?: string | undefined;
  readonly mtuBytes?: number | undefined;
}

/** A plugin that adds to an interface that is there. */
export interface ChainedPlugin {
  readonly kind: 'chained';
  plan(call: ChainedCall): Planned | CniError | Promise<Planned | CniError>;
  /** What CHECK looks at beside the rows; undefined: all is well. */
  check?(call: ChainedCall): Promise<CniError | undefined>;
}

/** A program may stand for the whole plugin, where another type is only its name: flannel. */
export type ParsedPlugin = InterfacePlugin | ChainedPlugin | ForeignPlugin;

/** One value of `type` in configurations. */
export interface PluginType {
  readonly kind: 'interface' | 'chained';
  /** The same configuration may mean something else the next time. */
  readonly readsFiles?: true;
  /** Every problem of the configuration is told when it is read. */
  parse(config: Fields, input: ParseInput): ParsedPlugin | CniError;
  /** What DEL does beside removing rows, in a namespace that is still there. */
  undo?(namespaceFd: number): Promise<void>;
  /** Removes what the program of this name, which was there before Fairlead, keeps of a container. */
  delBefore?(config: Fields, containerId: string): Promise<void>;
}
