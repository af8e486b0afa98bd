import type { Entry } from '../frame.ts';
import { renderMarkdown, renderVerdict } from './render.ts';

/** Where and when a bench ran. */
export interface Occasion {
  /** ISO date, without the time. */
  readonly date: string;
  readonly command: string;
  /** "Linux 6.1.0". */
  readonly kernel: string;
  readonly cores: number;
  /** "v24.21.0". */
  readonly node: string;
}

/**
 * The document with the section of this bench put in: in place of its old one, or in alphabetical order among
 * the others. A section begins with `## NAME` and ends before the next one.
 */
export function recordSection(
  document: string,
  bench: string,
  { description, entries, occasion }: { description: string; entries: readonly Entry[]; occasion: Occasion },
): string {
  const [head = '', ...sections] = document.split(/^(?=## )/m);
  const { date, command, kernel, cores, node } = occasion;
  const others = sections.filter((section) => titleOf(section) !== bench);
  const section = `## ${bench}

${description[0]?.toUpperCase()}${description.slice(1)}.

${date}, ${kernel}, ${cores} cores, Node ${node}: \`${command}\`

${renderMarkdown(entries)}

${renderVerdict(entries)}.
`;
  const ordered = [...others.map((other) => `${other.trimEnd()}\n`), section].toSorted((a, b) =>
    titleOf(a).localeCompare(titleOf(b), 'en'),
  );
  return [`${head.trimEnd()}\n`, ...ordered].join('\n');
}

function titleOf(section: string): string {
  return /^## (.*)$/m.exec(section)?.[1] ?? '';
}
