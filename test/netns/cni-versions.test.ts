import test from 'ava';
import { isAtLeast, supportedVersions } from '../../cni/version.ts';
import { CniNode, testConfig } from '../cni/node.ts';

/** The version that brought each verb. */
const verbs = { ADD: '0.1.0', CHECK: '0.4.0', STATUS: '1.1.0', GC: '1.1.0', DEL: '0.1.0' } as const;

for (const version of supportedVersions) {
  test(`every verb in ${version}: what the version has is served, all else is code 1`, async (t) => {
    const node = CniNode.open(t);
    await node.start();
    const pod = node.pod();
    const list = [{ containerID: pod.containerId, ifname: 'eth0' }];
    let prevResult: object | undefined;
    for (const [verb, floor] of Object.entries(verbs)) {
      const config = testConfig({
        cniVersion: version,
        ...(verb !== 'ADD' && { prevResult }),
        ...(verb === 'GC' && { 'cni.dev/valid-attachments': list }),
      });
      const { exitCode, stdout } = await node.call(verb, { ...pod, config });
      if (isAtLeast(version, floor) !== true) {
        t.like(JSON.parse(stdout), {
          cniVersion: '1.1.0',
          code: 1,
          msg: `config version does not allow ${verb}`,
        });
        continue;
      }
      t.is(exitCode, 0, `${verb}: ${stdout}`);
      if (verb === 'ADD') {
        prevResult = JSON.parse(stdout);
        t.like(prevResult, { cniVersion: version });
      } else t.is(stdout, '', verb);
      t.is(node.leases().length, verb === 'DEL' ? 0 : 1);
    }
    const { stdout } = await node.call('VERSION', { ...pod, config: { cniVersion: version } });
    t.deepEqual(JSON.parse(stdout).supportedVersions, supportedVersions);
  });
}
