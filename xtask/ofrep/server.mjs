// The OpenFeature server SDK for JavaScript with its OFREP provider.
// Arguments: URL of the admin API, token for flags. Prints one line of JSON.
import { createRequire } from "node:module";
const require = createRequire(process.cwd() + "/");
const { OpenFeature } = require("@openfeature/server-sdk");
const { OFREPProvider } = require("@openfeature/ofrep-provider");

const [url, token] = process.argv.slice(2);
await OpenFeature.setProviderAndWait(
  new OFREPProvider({ baseUrl: url, headers: [["Authorization", `Bearer ${token}`]] }),
);
const client = OpenFeature.getClient();
const user = { targetingKey: "user-1" };
const told = ({ value, variant, reason, errorCode }) => [value, variant, reason, errorCode ?? null];
const seen = {
  boolean: told(await client.getBooleanDetails("boolean", false, user)),
  text: told(await client.getStringDetails("text", "-", user)),
  special: told(await client.getStringDetails("text", "-", { ...user, plan: "pro" })),
  integer: told(await client.getNumberDetails("integer", -1, user)),
  float: told(await client.getNumberDetails("float", -1, user)),
  object: told(await client.getObjectDetails("object", {}, user)),
  disabled: told(await client.getBooleanDetails("disabled", true, user)),
  killed: told(await client.getBooleanDetails("killed", true, user)),
  by_tenant: told(await client.getBooleanDetails("by_tenant", false, { ...user, tenant: "acme" })),
  unknown: told(await client.getBooleanDetails("unknown", true, user)),
  metadata: (await client.getBooleanDetails("boolean", false, user)).flagMetadata,
};
seen.tenth = [];
for (let n = 0; n < 200; n++) {
  const details = await client.getBooleanDetails("tenth", false, { targetingKey: `user-${n}` });
  if (details.value) seen.tenth.push(n);
}
await OpenFeature.close();
console.log(JSON.stringify(seen));
