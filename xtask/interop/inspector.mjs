// The MCP Inspector's command line. Runs in the folder with node_modules: node inspector.mjs URL legacy|auto|modern
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

const [url, era] = process.argv.slice(2);
const program = resolve('node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js');
// It keeps a catalog in the home folder.
const home = mkdtempSync(join(tmpdir(), 'inspector-'));

async function inspect(...options) {
  const fixed = [program, '--cli', url, '--transport', 'http', '--protocol-era', era, '--format', 'json', '--quiet'];
  const run = promisify(execFile)(process.execPath, [...fixed, ...options], { env: { ...process.env, HOME: home } });
  // A tool error is an exit code of its own; what was answered is on standard output all the same.
  const { stdout, stderr } = await run.catch((error) => error);
  if (!stdout) throw new Error(`the Inspector printed nothing: ${stderr}`);
  return JSON.parse(stdout).result ?? JSON.parse(stdout);
}

try {
  // It follows the pages itself.
  const { tools } = await inspect('--method', 'tools/list');
  const call = (...args) => inspect('--method', 'tools/call', '--tool-name', 'generate_content', ...args);
  const answer = await call('--tool-arg', 'topic=tea', '--tool-arg', 'tone=dry', '--tool-arg', 'nonce=n-1');
  const refused = await call('--tool-arg', 'nonce=n-2');
  console.log(JSON.stringify({
    tools: tools.map((tool) => tool.name),
    answer: answer.structuredContent,
    error: refused.isError === true,
  }));
} finally {
  rmSync(home, { recursive: true });
}
