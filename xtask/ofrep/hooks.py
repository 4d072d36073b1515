"""Where the published description of OFREP 0.3.0 contradicts itself or its clients, for schemathesis."""

import schemathesis


@schemathesis.hook
def before_load_schema(context, raw_schema):
    schemas = raw_schema["components"]["schemas"]
    # `codeDefaultFlag` is any object, so with `oneOf` no flag that has a value would fit.
    for part in schemas["evaluationSuccess"]["allOf"]:
        if "oneOf" in part:
            part["anyOf"] = part.pop("oneOf")
    # Clients leave it out, or send null, where an application has none. Percentages then give the default variant.
    context = schemas["context"]
    context["required"] = []
    context["properties"]["targetingKey"]["type"] = ["string", "null"]
