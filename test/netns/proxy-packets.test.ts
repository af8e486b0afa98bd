import { packets } from './proxy-packets.ts';

packets();
