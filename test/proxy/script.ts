import { type Ip, parseIp } from '../../core/address.ts';
import type { V1EndpointSlice, V1Service } from '../../kube/types.ts';
import type { Views } from '../../proxy/backend.ts';
import type { ServicePortView, ViewNode } from '../../proxy/view.ts';
import { ServiceViews } from '../../proxy/views.ts';
import { optionsOf, parseService, parseSlice } from './objects.ts';
import { renderView } from './view-text.ts';

/** A backend's planner, as a script asks it. */
export interface ScriptPlanner {
  put(service: string, ports: readonly ServicePortView[]): void;
  /** The changes since the last call, as text. */
  plan(): string;
  /** All that is wanted, as text. */
  elements(): string;
  /** What a new process would write, which finds what is there; it goes on from there. */
  restart(views: Views): string;
}

/**
 * Runs a script of objects that come and go. Commands: `service …`, `slice …`, `delete service|slice KEY`,
 * `node …` (which is `name=here` at first); `view` shows the views of all services, `changed` the services whose views
 * are not as they were; with a planner: `plan` the changes, `elements` all that is wanted, `restart` what a new process
 * would write. Below each that shows something stands what it showed, indented.
 */
export function runScript(text: string, planner?: ScriptPlanner): string {
  const world = new World(planner);
  const lines = text.split('\n').filter((line) => !line.startsWith('    '));
  const output = lines.flatMap((line) => {
    const shown = line.startsWith('#') ? '' : world.run(line);
    return [
      line,
      ...shown
        .split('\n')
        .filter((part) => part !== '')
        .map((part) => `    ${part}`),
    ];
  });
  return output.join('\n');
}

class World {
  readonly #services = new Map<string, V1Service>();
  readonly #slices = new Map<string, V1EndpointSlice>();
  readonly #views: ServiceViews;
  readonly #planner: ScriptPlanner | undefined;
  readonly #changed = new Set<string>();

  constructor(planner: ScriptPlanner | undefined) {
    this.#planner = planner;
    this.#views = new ServiceViews({ services: this.#services, slices: this.#slices }, nodeOf('name=here'));
  }

  /** What the command shows. */
  run(line: string): string {
    const [, command = '', rest = ''] = /^(delete \w+|\w*)\s*(.*)$/.exec(line) ?? [];
    const key = rest.split(/\s/)[0] ?? '';
    const action = this.#actions[command];
    if (action === undefined) throw new Error(`unknown command: "${command}"`);
    return action(rest, key) ?? '';
  }

  readonly #actions: Readonly<Record<string, (rest: string, key: string) => string | undefined>> = {
    '': () => undefined,
    service: (rest, key) => {
      this.#services.set(key, parseService(rest));
      this.#views.markService(key);
      return undefined;
    },
    'delete service': (_, key) => {
      this.#services.delete(key);
      this.#views.markService(key);
      return undefined;
    },
    slice: (rest, key) => {
      this.#slices.set(key, parseSlice(rest));
      this.#views.markSlice(key);
      return undefined;
    },
    'delete slice': (_, key) => {
      this.#slices.delete(key);
      this.#views.markSlice(key);
      return undefined;
    },
    node: (rest) => {
      this.#views.setNode(nodeOf(rest));
      return undefined;
    },
    view: () => this.#view(),
    changed: () => {
      this.#refresh();
      const names = [...this.#changed].sort();
      this.#changed.clear();
      return names.length === 0 ? 'nothing' : names.join('\n');
    },
    plan: () => this.#planned().plan() || 'nothing',
    elements: () => this.#planned().elements(),
    restart: () => this.#planned().restart(this.#views.current) || 'nothing',
  };

  #refresh(): void {
    for (const [service, ports] of this.#views.refresh()) {
      this.#changed.add(service);
      this.#planner?.put(service, ports);
    }
  }

  #planned(): ScriptPlanner {
    if (this.#planner === undefined) throw new Error('this script has no planner');
    this.#refresh();
    return this.#planner;
  }

  #view(): string {
    this.#refresh();
    return Array.from(this.#services.keys(), (service) => this.#viewOf(service)).join('\n');
  }

  #viewOf(service: string): string {
    const check = this.#views.healthChecks.get(service);
    const problems = this.#views.problems.get(service) ?? [];
    const lines = [
      ...(this.#views.current.get(service) ?? []).map(renderView),
      ...(check ? [`health check at ${check.port}: ${check.localReadyEndpoints} here`] : []),
      ...problems.map(({ path, message }) => `! ${path}: ${message}`),
    ];
    return lines.length === 0 ? `${service} has no ports` : lines.join('\n');
  }
}

/** `name=here zone=z ips=192.0.2.1,2001:db8::1 proxy=NAME externalIPs=false` */
function nodeOf(text: string): ViewNode {
  const options = optionsOf(text);
  const ips = options.get('ips')?.split(',') ?? [];
  return {
    nodeName: options.get('name') ?? 'here',
    zone: options.get('zone'),
    nodeIps: ips.map((ip) => parseIp(ip)).filter((ip): ip is Ip => ip !== undefined),
    serviceProxyName: options.get('proxy'),
    allowExternalIps: options.get('externalIPs') !== 'false',
  };
}
