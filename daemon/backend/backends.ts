import type { BackendConfig } from '../config.ts';
import type { Backend } from './backend.ts';
import { hostGw } from './host-gw.ts';
import { vxlan } from './vxlan.ts';

export function backendFor(config: BackendConfig): Backend {
  return config.type === 'vxlan' ? vxlan(config) : hostGw();
}
