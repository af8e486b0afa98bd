import type { Frame } from './frame.ts';
import { measureConnections } from './proxy/connect.ts';
import { measureIptables } from './proxy/iptables.ts';
import { isInstalled, nftTables, oldLayout, peerKinds } from './proxy/peers.ts';
import { changeNames, FULL_SIZE, OLD_LAYOUT_SIZE, Size } from './proxy/sizes.ts';
import { NFT } from './proxy/space.ts';

export const description =
  'the service proxy in nftables and iptables, from its stores to the kernel, against the tools with the rules of kube-proxy';

const CHANGES_EACH_SECOND = 100;
const TABLE = 'table ip fairlead-proxy';

export async function run(frame: Frame): Promise<void> {
  const numbers = frame.quick ? [100] : [100, 1_000, OLD_LAYOUT_SIZE, 5_000, FULL_SIZE];
  nameMissing(frame);
  await using stack = new AsyncDisposableStack();
  const sizes = numbers.map((services) => stack.use(new Size(frame, services)));
  for (const size of sizes) {
    frame.progress(`${size.name}: loading`);
    await size.load();
  }
  await measureChanges(frame, sizes);
  const largest = sizes.at(-1);
  if (largest === undefined) return;
  await measureChurn(frame, largest);
  for (const size of sizes) await measureListing(frame, size);
  frame.progress('memory');
  for (const size of sizes) await size.reportMemory();
  await measureIptables(frame);
  await measureConnections(frame, largest.services);
}

function nameMissing(frame: Frame): void {
  for (const kind of peerKinds.filter((each) => !isInstalled(each)))
    frame.missing(kind.name, `no ${kind.program}`);
  frame.missing('kube-proxy itself', 'its rules are measured, its own work is not');
  for (const { name, mostServices } of [oldLayout, nftTables]) {
    const most = mostServices.toLocaleString('en');
    frame.missing(`${name}, more than ${most} Services`, 'it takes minutes');
  }
}

/** Of all sizes in the same rounds, so that they can be compared. */
async function measureChanges(frame: Frame, sizes: readonly Size[]): Promise<void> {
  const rounds = frame.quick ? 2 : 7;
  for (let round = 0; round < rounds; round += 1) {
    frame.progress(`changes, round ${round + 1} of ${rounds}`);
    for (const size of round % 2 === 0 ? sizes : sizes.toReversed()) await size.change();
  }
  for (const size of sizes) size.reportChanges();
  const [smallest, largest] = [sizes[0], sizes.at(-1)];
  if (smallest === undefined || largest === undefined || smallest === largest) return;
  frame.ratio(
    `${changeNames.endpoint}, ${largest.name} / ${smallest.name}`,
    largest.latenciesMs('endpoint'),
    smallest.latenciesMs('endpoint'),
    { target: { atMost: 1.3 } },
  );
}

async function measureChurn(frame: Frame, size: Size): Promise<void> {
  const seconds = frame.quick ? 10 : 60;
  frame.progress(`${size.name}: ${CHANGES_EACH_SECOND} changes a second for ${seconds} s`);
  const { lagsMs, cpuShare } = await size.ours.subject.churn(CHANGES_EACH_SECOND, seconds);
  const name = `${size.name}: ${CHANGES_EACH_SECOND} changes a second for ${seconds} s`;
  frame.samples(`${name}, lag`, lagsMs);
  frame.figure(`${name}, longest lag`, Math.max(...lagsMs), 'ms');
  frame.figure(`${name}, CPU`, cpuShare * 100, '%');
}

/** Administrators look: their tool must show our tables, however large they are. */
async function measureListing(frame: Frame, size: Size): Promise<void> {
  const startMs = performance.now();
  const text = await size.ours.space.run([NFT, 'list', 'ruleset']);
  const ms = performance.now() - startMs;
  if (!text.includes(TABLE)) throw new Error(`nft list ruleset does not show ${TABLE}`);
  frame.figure(`${size.name}: nft list ruleset`, ms, 'ms');
}
