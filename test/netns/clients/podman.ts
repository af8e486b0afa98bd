import { writeFileSync } from 'node:fs';
import type { RuntimeHost } from './runtime-host.ts';

/** What podman reads instead of the machine's own configuration. */
const CONTAINERS_CONF = `
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
[network]
network_backend = "cni"
network_config_dir = "/etc/cni/net.d"
cni_plugin_dirs = ["/opt/cni/bin"]
default_network = "fairlead"
[containers]
cgroups = "disabled"
`;
const STORAGE_CONF = `
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
`;

/** What `podman inspect` says of a container's network. */
export interface PodmanNetwork {
  readonly IPAddress: string;
  readonly GlobalIPv6Address: string;
  readonly Gateway: string;
  readonly MacAddress: string;
}

/** podman on a machine of a lab, with CNI and crun, without images. */
export class Podman {
  readonly #host: RuntimeHost;

  constructor(host: RuntimeHost) {
    this.#host = host;
    writeFileSync(`${host.directory}/containers.conf`, CONTAINERS_CONF);
    writeFileSync(`${host.directory}/storage.conf`, STORAGE_CONF);
  }

  /** Runs `command` in a new container; `options` are podman's own. */
  async run(options: readonly string[], command: readonly string[]): Promise<string> {
    return (await this.command('run', ...options, '--rootfs', '/mnt/rootfs', ...command)).trim();
  }

  command(...args: string[]): Promise<string> {
    return this.#host.exec('podman', ...args);
  }

  async network(container: string): Promise<PodmanNetwork> {
    const text = await this.command(
      'inspect',
      '--format',
      '{{json .NetworkSettings.Networks.fairlead}}',
      container,
    );
    return JSON.parse(text) as PodmanNetwork;
  }
}
