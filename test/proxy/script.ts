import { families } from '../../core/address.ts';
import { diff } from '../../core/diff.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { V1EndpointSlice, V1Service } from '../../kube/types.ts';
import { FamilyPlan } from '../../proxy/nftables/plan.ts';
import { ServiceViews } from '../../proxy/views.ts';
import { parseService, parseSlice } from './objects.ts';
import { renderChange, renderElement, renderView } from './render.ts';

/**
 * Runs a script of objects that come and go. Commands: `service …`, `slice …`, `delete service|slice KEY`;
 * `view` shows the dirty services' views, `plan` the changes to elements that they cause, `elements` all elements,
 * `restart` what a new process would write. Below each that shows something stands what it showed, indented.
 */
export function runScript(text: string): string {
  const world = new World();
  const lines = text.split('\n').filter((line) => !line.startsWith('    '));
  const output = lines.flatMap((line) => {
    const shown = line.startsWith('#') ? '' : world.run(line);
    return [
      line,
      ...(shown ?? '')
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
  readonly #views = new ServiceViews(
    { services: this.#services, slices: this.#slices },
    { nodeName: 'here', nodeIps: [] },
  );
  #plans = families.map((family) => new FamilyPlan(family, new Map()));

  /** What the command shows. */
  run(line: string): string {
    const [, command = '', rest = ''] = /^(delete \w+|\w*)\s*(.*)$/.exec(line) ?? [];
    const key = rest.split(/\s/)[0] ?? '';
    switch (command) {
      case '':
        return '';
      case 'service':
        this.#services.set(key, parseService(rest));
        return this.#marked(() => this.#views.markService(key));
      case 'delete service':
        this.#services.delete(key);
        return this.#marked(() => this.#views.markService(key));
      case 'slice':
        this.#slices.set(key, parseSlice(rest));
        return this.#marked(() => this.#views.markSlice(key));
      case 'delete slice':
        this.#slices.delete(key);
        return this.#marked(() => this.#views.markSlice(key));
      case 'view':
        return this.#view();
      case 'plan':
        return this.#plan();
      case 'elements':
        return this.#plans
          .flatMap((plan) => Array.from(plan.elements(), (each) => renderElement(each, plan.family)).sort())
          .join('\n');
      case 'restart':
        return this.#restart();
      default:
        throw new Error(`unknown command: "${command}"`);
    }
  }

  #marked(mark: () => void): string {
    mark();
    return '';
  }

  #view(): string {
    const changed = this.#views.refresh();
    for (const plan of this.#plans) for (const [service, ports] of changed) plan.put(service, ports);
    return Array.from(changed, ([service, ports]) => {
      const problems = this.#views.problems.get(service) ?? [];
      const lines = [
        ...ports.map(renderView),
        ...problems.map(({ path, message }) => `! ${path}: ${message}`),
      ];
      return lines.length === 0 ? `${service} has no ports` : lines.join('\n');
    }).join('\n');
  }

  #plan(): string {
    this.#view();
    const lines = this.#plans.flatMap((plan) =>
      plan.drain().map((change) => renderChange(change, plan.family)),
    );
    return lines.length === 0 ? 'nothing' : lines.join('\n');
  }

  #restart(): string {
    this.#view();
    const before = this.#plans.map(elementsByKey);
    this.#plans = this.#plans.map((plan, index) => {
      return new FamilyPlan(plan.family, this.#views.current, before[index]);
    });
    const lines = this.#plans.flatMap((plan, index) => {
      const changes = diff(elementsByKey(plan), before[index] ?? new Map(), (a, b) => a.data === b.data);
      return changes.map((change) => renderChange(change, plan.family));
    });
    return lines.length === 0 ? 'nothing' : lines.join('\n');
  }
}

function elementsByKey(plan: FamilyPlan): Map<string, NftElement> {
  return new Map(Array.from(plan.elements(), (element) => [nftElementKey(element), element]));
}
