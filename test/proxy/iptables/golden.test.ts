import { join } from 'node:path';
import { testScripts } from '../golden-folder.ts';
import { IptablesScriptPlanner } from './script.ts';

// Objects in, the input of iptables-restore out; a fake kernel takes it.
testScripts(join(import.meta.dirname, 'golden'), () => new IptablesScriptPlanner());
