import { join } from 'node:path';
import { testScripts } from '../golden-folder.ts';
import { NftScriptPlanner } from './script.ts';

// Objects in, changes to elements out.
testScripts(join(import.meta.dirname, 'golden'), () => new NftScriptPlanner());
