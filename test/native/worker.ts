/** The worker of lane.test.ts: a poll and more jobs than it will live to see. */
import { parentPort } from 'node:worker_threads';
import { native } from '../../native/index.ts';
import { getLink } from './netlink.ts';

const fd = native.openSocket(-1, 16, 3, 0, 0);
const lane = native.lane();
native.lane();
native.poll(fd, () => {});
for (let i = 0; i < 2000; i++) native.run(lane, [{ fd, data: getLink(1) }]).catch(() => {});
parentPort?.postMessage('ready');
