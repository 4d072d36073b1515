// @modelcontextprotocol/sdk 1.x, a legacy client. Runs in the folder with node_modules: node typescript_v1.mjs URL
import { createRequire } from 'node:module';

const require = createRequire(`${process.cwd()}/`);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');

const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
const client = new Client({ name: 'serin-interop', version: '1.0.0' });
await client.connect(transport);

const tools = [];
let cursor;
do {
  const page = await client.listTools({ cursor });
  tools.push(...page.tools.map((tool) => tool.name));
  cursor = page.nextCursor;
} while (cursor);

const call = (args) => client.callTool({ name: 'generate_content', arguments: args });
const answer = await call({ topic: 'tea', tone: 'dry', nonce: 'n-1' });
const refused = await call({ nonce: 'n-2' });
const protocol = transport.protocolVersion;
await transport.terminateSession();
await client.close();

console.log(JSON.stringify({
  protocol, tools, answer: answer.structuredContent, error: refused.isError === true,
}));
