/** Longest line that a watch may send: etcd's largest object is 1.5 MiB, doubled by JSON. */
const MAX_LINE_BYTES = 8 << 20;

const NEWLINE = 10;

/** Cuts a byte stream into lines; an unfinished last line is dropped. `heard` is called for every chunk. */
export async function* linesOf(
  chunks: AsyncIterable<Buffer>,
  heard: () => void,
): AsyncGenerator<string, void> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  for await (const chunk of chunks) {
    heard();
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      const line = Buffer.concat([...rest, chunk.subarray(start, end)]).toString();
      rest = [];
      restBytes = 0;
      start = end + 1;
      if (line !== '') yield line;
    }
    if (start < chunk.length) rest.push(chunk.subarray(start));
    restBytes += chunk.length - start;
    if (restBytes > MAX_LINE_BYTES) throw new Error(`a line is longer than ${MAX_LINE_BYTES} bytes`);
  }
}
