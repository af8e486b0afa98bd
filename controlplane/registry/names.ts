import { randomInt } from 'node:crypto';

/*
 * Names as Kubernetes takes them (apimachinery, pkg/util/validation/validation.go). Each function gives what is
 * wrong, or undefined.
 */

const LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const LABEL_1035 = /^[a-z]([-a-z0-9]*[a-z0-9])?$/;
const SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const QUALIFIED = /^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$/;

const MOST_LABEL = 63;
const MOST_SUBDOMAIN = 253;
const MOST_PORT_NAME = 15;

const tooLong = (most: number) => `must be no more than ${most} bytes`;

/** RFC 1123 label: namespaces, port names. */
export function dnsLabelProblem(text: string): string | undefined {
  if (text.length > MOST_LABEL) return tooLong(MOST_LABEL);
  return LABEL.test(text)
    ? undefined
    : "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and " +
        `end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '${inner(LABEL)}')`;
}

/** RFC 1035 label: services. */
export function dns1035LabelProblem(text: string): string | undefined {
  if (text.length > MOST_LABEL) return tooLong(MOST_LABEL);
  return LABEL_1035.test(text)
    ? undefined
    : "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic " +
        "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for " +
        `validation is '${inner(LABEL_1035)}')`;
}

/** RFC 1123 subdomain: most objects. */
export function dnsSubdomainProblem(text: string): string | undefined {
  if (text.length > MOST_SUBDOMAIN) return tooLong(MOST_SUBDOMAIN);
  return SUBDOMAIN.test(text)
    ? undefined
    : "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must " +
        `start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '${inner(SUBDOMAIN)}')`;
}

/** IANA service name: container ports, and targetPort when it is a name. */
export function portNameProblem(text: string): string | undefined {
  if (text.length > MOST_PORT_NAME) return tooLong(MOST_PORT_NAME);
  if (!/^[-a-z0-9]+$/.test(text)) {
    return 'must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-) and be lower case';
  }
  if (!/[a-z]/.test(text)) return 'must contain at least one letter (a-z)';
  if (text.includes('--')) return 'must not contain consecutive hyphens';
  return text.startsWith('-') || text.endsWith('-') ? 'must not begin or end with a hyphen' : undefined;
}

/** The keys of labels and annotations: `name` or `prefix.example.com/name`. */
export function qualifiedNameProblem(text: string): string | undefined {
  const slash = text.indexOf('/');
  const prefix = slash < 0 ? undefined : text.slice(0, slash);
  const name = text.slice(slash + 1);
  if (prefix !== undefined && (prefix === '' || dnsSubdomainProblem(prefix) !== undefined)) {
    return `prefix part ${dnsSubdomainProblem(prefix) ?? 'must be non-empty'}`;
  }
  if (name === '') return 'name part must be non-empty';
  if (name.length > MOST_LABEL) return `name part ${tooLong(MOST_LABEL)}`;
  return QUALIFIED.test(name)
    ? undefined
    : "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an " +
        `alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '${inner(QUALIFIED)}')`;
}

export function labelValueProblem(text: string): string | undefined {
  if (text.length > MOST_LABEL) return tooLong(MOST_LABEL);
  return text === '' || QUALIFIED.test(text)
    ? undefined
    : "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must " +
        `start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(${inner(QUALIFIED)})?')`;
}

function inner(pattern: RegExp): string {
  return pattern.source.slice(1, -1);
}

/** No vowels, so that no words come about (apiserver, pkg/storage/names/generate.go). */
const SUFFIX_LETTERS = 'bcdfghjklmnpqrstvwxz2456789';
const SUFFIX_LENGTH = 5;

/** The name for a generateName: its first 58 letters and five at random. */
export function generateName(base: string): string {
  const letters = Array.from(
    { length: SUFFIX_LENGTH },
    () => SUFFIX_LETTERS[randomInt(SUFFIX_LETTERS.length)],
  );
  return base.slice(0, MOST_LABEL - SUFFIX_LENGTH) + letters.join('');
}
