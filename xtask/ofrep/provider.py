"""The OpenFeature SDK for Python with its OFREP provider, or with flagd's provider in process.

Arguments: `ofrep` URL TOKEN, or `in-process` FILE with the effective flags. Prints one line of JSON.
"""

import json
import sys

from openfeature import api
from openfeature.evaluation_context import EvaluationContext

if sys.argv[1] == "ofrep":
    from openfeature.contrib.provider.ofrep import OFREPProvider

    url, token = sys.argv[2:]
    provider = OFREPProvider(url, headers_factory=lambda: {"Authorization": f"Bearer {token}"})
else:
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType

    provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=sys.argv[2])

api.set_provider_and_wait(provider)
client = api.get_client()


def told(details):
    code = details.error_code.value if details.error_code else None
    return [details.value, details.variant, str(getattr(details.reason, "value", details.reason)), code]


def user(n, **more):
    return EvaluationContext(targeting_key=f"user-{n}", attributes=more)


one = user(1)
seen = {
    "boolean": told(client.get_boolean_details("boolean", False, one)),
    "text": told(client.get_string_details("text", "-", one)),
    "special": told(client.get_string_details("text", "-", user(1, plan="pro"))),
    "integer": told(client.get_integer_details("integer", -1, one)),
    "float": told(client.get_float_details("float", -1.0, one)),
    "object": told(client.get_object_details("object", {}, one)),
    "disabled": told(client.get_boolean_details("disabled", True, one)),
    "killed": told(client.get_boolean_details("killed", True, one)),
    "by_tenant": told(client.get_boolean_details("by_tenant", False, user(1, tenant="acme"))),
    "unknown": told(client.get_boolean_details("unknown", True, one)),
    "metadata": client.get_boolean_details("boolean", False, one).flag_metadata,
    "tenth": [n for n in range(200) if client.get_boolean_value("tenth", False, user(n))],
}
api.shutdown()
print(json.dumps(seen))
