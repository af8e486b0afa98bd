import { type Cidr, families } from '../../../core/address.ts';
import type { Views } from '../../../proxy/backend.ts';
import { compare } from '../../../proxy/iptables/compare.ts';
import { type RuleContext, ruleContext } from '../../../proxy/iptables/context.ts';
import { renderEdit } from '../../../proxy/iptables/edit.ts';
import { FamilyPlan } from '../../../proxy/iptables/plan.ts';
import type { ProxyPolicy } from '../../../proxy/policy.ts';
import type { ServicePortView } from '../../../proxy/view.ts';
import type { ScriptPlanner } from '../script.ts';
import { FakeIptables } from './fake-iptables.ts';

export const policy: ProxyPolicy = {
  masqueradeAll: false,
  detectLocal: { mode: 'cidrs', cidrs: ['10.244.0.0/16', 'fd00:10:244::/56'] as string[] as Cidr[] },
  masqueradeBit: 14,
  nodePortAddresses: [],
  localhostNodePorts: true,
};

interface Half {
  readonly context: RuleContext;
  readonly plan: FamilyPlan;
  readonly kernel: FakeIptables;
}

/** Both families with a kernel of their own, as scripts show them: what is given to iptables-restore. */
export class IptablesScriptPlanner implements ScriptPlanner {
  #halves: readonly Half[] = families.map((family) => {
    const context = ruleContext(family, policy, true);
    return started(context, new FakeIptables(), new Map()).half;
  });

  put(service: string, ports: readonly ServicePortView[]): void {
    for (const { plan } of this.#halves) plan.put(service, ports);
  }

  plan(): string {
    return this.#halves
      .map(({ plan, kernel, context }) => {
        const text = renderEdit(plan.drain());
        kernel.restore(text);
        return titled(context, text);
      })
      .join('');
  }

  /** All our chains with rules, as iptables-save prints them. */
  elements(): string {
    return this.#halves
      .map(({ kernel, context }) => {
        const lines = Array.from(kernel.saved(), ([key, rules]) => {
          const [table, name] = key.split(' ');
          return rules.map((rule) => `${table} ${name} ${rule}\n`).join('');
        });
        return titled(context, lines.join(''));
      })
      .join('');
  }

  restart(views: Views): string {
    const restarted = this.#halves.map(({ context, kernel }) => started(context, kernel, views));
    this.#halves = restarted.map(({ half }) => half);
    return restarted.map(({ half, text }) => titled(half.context, text)).join('');
  }
}

function titled({ family }: RuleContext, text: string): string {
  return text === '' ? '' : `IPv${family}:\n${text}`;
}

/** A new process finds what is in the kernel, and puts it right. */
export function started(
  context: RuleContext,
  kernel: FakeIptables,
  views: Views,
): { readonly half: Half; readonly text: string } {
  const plan = new FamilyPlan(context, 'all');
  plan.replace(views);
  const text = renderEdit(compare(plan, context, kernel.saved()));
  kernel.restore(text);
  return { half: { context, plan, kernel }, text };
}
