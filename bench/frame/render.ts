import { type Entry, type Figure, type Missing, meets, type Target } from '../frame.ts';

const columns = ['figure', 'p50', 'p90', 'p99', 'spread', 'unit', 'target', ''] as const;

/** The result as a table of plain text. */
export function renderTable(entries: readonly Entry[]): string {
  const rows = [columns as readonly string[], ...entries.filter(isFigure).map(cellsOf)];
  const widths = columns.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map((row) =>
    row.map((cell, column) =>
      isText(column) ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
    ),
  );
  return [
    ...lines.map((cells) => cells.join('  ').trimEnd()),
    ...entries.filter(isMissing).map(missingLine),
  ].join('\n');
}

/** The same as a Markdown table. */
export function renderMarkdown(entries: readonly Entry[]): string {
  const rows = [columns as readonly string[], columns.map((_, column) => (isText(column) ? '---' : '--:'))];
  rows.push(...entries.filter(isFigure).map(cellsOf));
  const missing = entries.filter(isMissing).map((entry) => `- ${missingLine(entry)}`);
  const table = rows.map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`);
  return [...table, ...(missing.length > 0 ? ['', ...missing] : [])].join('\n');
}

/** One object a line: every percentile is a figure of its own, and every missing peer has a line. */
export function renderJson(bench: string, entries: readonly Entry[]): string[] {
  return entries.flatMap((entry) => {
    if (isMissing(entry)) return [JSON.stringify({ bench, missing: entry.peer, why: entry.why })];
    const { name, value, unit, p90, p99, spread, target } = entry;
    const main = { bench, figure: p90 === undefined ? name : `${name} p50`, value, unit, spread };
    const tails = Object.entries({ p90, p99 }).filter(([, tail]) => tail !== undefined);
    return [
      JSON.stringify({ ...main, target: target && targetText(target), ok: meets(value, target) }),
      ...tails.map(([tail, tailValue]) =>
        JSON.stringify({ bench, figure: `${name} ${tail}`, value: tailValue, unit }),
      ),
    ];
  });
}

/** "3 of 4 targets met; MISSED: x, y": the closing line. */
export function renderVerdict(entries: readonly Entry[]): string {
  const aimed = entries.filter(isFigure).filter((figure) => figure.target !== undefined);
  const missed = aimed.filter((figure) => !meets(figure.value, figure.target));
  const count = `${aimed.length - missed.length} of ${aimed.length} targets met`;
  return missed.length === 0 ? count : `${count}; MISSED: ${missed.map((figure) => figure.name).join('; ')}`;
}

function cellsOf({ name, value, p90, p99, spread, unit, target }: Figure): string[] {
  const verdict = meets(value, target);
  return [
    name,
    numberText(value),
    p90 === undefined ? '' : numberText(p90),
    p99 === undefined ? '' : numberText(p99),
    spread === undefined ? '' : `${numberText(spread[0])}..${numberText(spread[1])}`,
    unit,
    target === undefined ? '' : targetText(target),
    verdict === undefined ? '' : verdict ? 'ok' : 'MISSED',
  ];
}

/** Three significant digits below 1000, whole numbers above. */
function numberText(value: number): string {
  return Math.abs(value) >= 1000 || Number.isInteger(value) ? value.toFixed(0) : value.toPrecision(3);
}

function targetText({ atMost, atLeast }: Target): string {
  const parts = [
    atLeast === undefined ? [] : [`>= ${atLeast}`],
    atMost === undefined ? [] : [`<= ${atMost}`],
  ];
  return parts.flat().join(' and ');
}

const missingLine = ({ peer, why }: Missing) => `missing: ${peer} (${why})`;
const isText = (column: number) => column === 0 || column >= 5;
const isFigure = (entry: Entry): entry is Figure => entry.kind === 'figure';
const isMissing = (entry: Entry): entry is Missing => entry.kind === 'missing';
