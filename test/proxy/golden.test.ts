import { join } from 'node:path';
import { testScripts } from './golden-folder.ts';

// Objects in, views out.
testScripts(join(import.meta.dirname, 'golden'));
