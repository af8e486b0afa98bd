import { parseIpSloppy } from '../sloppy.ts';
import { type KubeProxyConfiguration, withPort } from './document.ts';
import { parseDuration, renderDuration } from './duration.ts';

/** How a flag's text is read; the reader throws the reason why it cannot be. */
export interface Flag {
  readonly name: string;
  /** What stands for the value in `--help`; booleans need none. */
  readonly placeholder?: string;
  readonly help: string;
  readonly apply: (document: KubeProxyConfiguration, text: string, isFirst: boolean) => void;
  readonly show: (document: KubeProxyConfiguration) => string;
  /** Counts beside a configuration file, too. */
  readonly besideFile?: boolean;
  /** What to use in its place. */
  readonly deprecated?: string;
}

type Get<T> = (document: KubeProxyConfiguration) => { value: T; set: (value: T) => void };

/** A place in the document, by the object that holds it. */
export function at<O, K extends keyof O>(holder: (document: KubeProxyConfiguration) => O, key: K): Get<O[K]> {
  return (document) => {
    const object = holder(document);
    return {
      value: object[key],
      set: (value) => {
        object[key] = value;
      },
    };
  };
}

type More = Pick<Flag, 'besideFile' | 'deprecated'>;

export function flagOf<T>(
  place: Get<T>,
  parse: (text: string) => T,
  show: (value: T) => string = String,
): (name: string, placeholder: string | undefined, help: string, more?: More) => Flag {
  return (name, placeholder, help, more = {}) => ({
    name,
    ...(placeholder !== undefined && { placeholder }),
    help,
    apply: (document, text) => place(document).set(parse(text)),
    show: (document) => show(place(document).value),
    ...more,
  });
}

export const words = (place: Get<string>) => flagOf(place, (text) => text);
export const yesNo = (place: Get<boolean>) => flagOf(place, parseBoolean);
export const number = (place: Get<number>) => flagOf(place, parseInteger);
export const time = (place: Get<number>) => flagOf(place, readDuration, renderDuration);

/** Given again it adds, as Go's string slices do. */
export function list(place: Get<string[]>, name: string, placeholder: string, help: string): Flag {
  return {
    name,
    placeholder,
    help,
    apply(document, text, isFirst) {
      const { value, set } = place(document);
      set([...(isFirst ? [] : value), ...(text === '' ? [] : text.split(','))]);
    },
    show: (document) => `[${place(document).value.join(',')}]`,
  };
}

export function parseBoolean(text: string): boolean {
  if (['1', 't', 'T', 'true', 'TRUE', 'True'].includes(text)) return true;
  if (['0', 'f', 'F', 'false', 'FALSE', 'False'].includes(text)) return false;
  throw new TypeError('is not true or false');
}

function parseInteger(text: string): number {
  const value = /^[-+]?\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value !== (value | 0)) throw new TypeError('is not a whole number of 32 bits');
  return value;
}

export function parseReal(text: string): number {
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) throw new TypeError('is not a number');
  return value;
}

function readDuration(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined) throw new TypeError('is not a duration such as "30s" or "1h0m0s"');
  return ms;
}

export function readAddress(text: string): string {
  if (text !== '' && parseIpSloppy(text) === undefined) throw new TypeError('is not an IP address');
  return text;
}

/** An address with or without a port. */
export function readAddressAndPort(text: string): string {
  const [, host = text] = /^(.*):\d+$/.exec(withPort(text, 1)) ?? [];
  const bare = host.replace(/^\[(.*)\]$/, '$1');
  if (text !== '' && parseIpSloppy(bare) === undefined)
    throw new TypeError('is not an IP address, with a port or without');
  return text;
}
