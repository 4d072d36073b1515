// @modelcontextprotocol/client 2.x, a client of both eras. Runs in the folder with node_modules:
// node typescript_v2.mjs URL legacy|auto
import { createRequire } from 'node:module';

const require = createRequire(`${process.cwd()}/`);
const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const [url, mode] = process.argv.slice(2);
const transport = new StreamableHTTPClientTransport(new URL(url));
const client = new Client({ name: 'serin-interop', version: '1.0.0' }, { versionNegotiation: { mode } });
await client.connect(transport);

// It follows the pages itself.
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const call = (args) => client.callTool({ name: 'generate_content', arguments: args });
const answer = await call({ topic: 'tea', tone: 'dry', nonce: 'n-1' });
const refused = await call({ nonce: 'n-2' });
const protocol = client.getNegotiatedProtocolVersion();
await client.close();

console.log(JSON.stringify({
  protocol, tools, answer: answer.structuredContent, error: refused.isError === true,
}));
