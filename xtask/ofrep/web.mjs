// The OpenFeature web SDK with its OFREP provider, which asks for all flags at once and follows the event stream.
// Arguments: URL of the admin API, token for flags, admin token, number of flips. Prints one line of JSON.
import { createRequire } from "node:module";
const require = createRequire(process.cwd() + "/");
const { EventSource } = require("eventsource");
globalThis.EventSource = EventSource;
const { OpenFeature, ProviderEvents } = require("@openfeature/web-sdk");
const { OFREPWebProvider } = require("@openfeature/ofrep-web-provider");

const [url, token, admin, flips] = process.argv.slice(2);
const use = async (context) => {
  await OpenFeature.setContext(context);
};
await OpenFeature.setContext({ targetingKey: "user-1" });
await OpenFeature.setProviderAndWait(
  new OFREPWebProvider({ baseUrl: url, headers: [["X-API-Key", token]], cacheMode: "disabled" }),
);
const client = OpenFeature.getClient();
const told = ({ value, variant, reason, errorCode }) => [value, variant, reason, errorCode ?? null];
const seen = {
  boolean: told(client.getBooleanDetails("boolean", false)),
  text: told(client.getStringDetails("text", "-")),
  integer: told(client.getNumberDetails("integer", -1)),
  float: told(client.getNumberDetails("float", -1)),
  object: told(client.getObjectDetails("object", {})),
  disabled: told(client.getBooleanDetails("disabled", true)),
  killed: told(client.getBooleanDetails("killed", true)),
  unknown: told(client.getBooleanDetails("unknown", true)),
  metadata: client.getBooleanDetails("boolean", false).flagMetadata,
};
await use({ targetingKey: "user-1", plan: "pro", tenant: "acme" });
seen.special = told(client.getStringDetails("text", "-"));
seen.by_tenant = told(client.getBooleanDetails("by_tenant", false));
seen.tenth = [];
for (let n = 0; n < 200; n++) {
  await use({ targetingKey: `user-${n}` });
  if (client.getBooleanValue("tenth", false)) seen.tenth.push(n);
}

// From the moment a flip is sent to the moment the application hears of it.
const until = async (wanted) => {
  await new Promise((heard, failed) => {
    const timer = setTimeout(() => failed(new Error(`not ${wanted} within 10 s`)), 10_000);
    const look = () => {
      if (client.getBooleanValue("live", !wanted) === wanted) {
        clearTimeout(timer);
        OpenFeature.removeHandler(ProviderEvents.ConfigurationChanged, look);
        heard();
      }
    };
    OpenFeature.addHandler(ProviderEvents.ConfigurationChanged, look);
    look();
  });
};
const command = async (method, path, body) => {
  const answer = await fetch(`${url}/admin/v1/${path}`, {
    method,
    headers: { authorization: `Bearer ${admin}` },
    body: JSON.stringify({ ...body, reason: "to see how long it takes" }),
  });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
};
const flip = (enabled) => command("PATCH", "flags/live", { enabled });
// The stream may still be about to open.
await flip(false);
await until(false);
seen.milliseconds = [];
for (let n = 0; n < Number(flips); n++) {
  const began = performance.now();
  const heard = until(n % 2 === 0);
  await flip(n % 2 === 0);
  await heard;
  seen.milliseconds.push(performance.now() - began);
}
await flip(true);
await until(true);
const began = performance.now();
await command("POST", "kills", { target: "flag:live" });
await until(false);
seen.kill_milliseconds = performance.now() - began;
await OpenFeature.close();
console.log(JSON.stringify(seen));
process.exit(0);
