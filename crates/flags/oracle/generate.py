"""Records what flagd's own evaluators for Python answer, for crates/flags/tests/oracle.rs.

    python3 -m venv v3 && v3/bin/pip install openfeature-flagd-core==2.0.0 'cbor2<6'
    python3 -m venv v2 && v2/bin/pip install openfeature-flagd-core==1.0.0
    v3/bin/python generate.py v3 > answers-v3.txt
    v2/bin/python generate.py v2 > answers-v2.txt
    python3 generate.py rules > rules.jsonl

The rules and contexts come from a fixed seed, so that all three belong together. A line of `rules.jsonl` is the pool of contexts
first and a rule afterwards; a line of answers has a letter for each context that the rule of the same line was asked with:
the variant's, `-` where the default answered, `!` for an error.
"""

import json
import random
import sys

SEED = 20261121
RULES = 2500
ASKED = 10
CONTEXTS = 250
NOW = 1_800_000_000
VARIANTS = ["a", "b", "c", "d"]
LETTERS = {**{v: v for v in VARIANTS}, "true": "t", "false": "f", "1": "1", "0": "0", "2.5": "2"}

WORDS = ["", "a", "ab", "abc", "b", "ann@ours.com", "bob@theirs.org", "ours.com", "10", "2", "1.5", "1e3", " 7 ", "true", "null", "Ünï", "x y"]
INTEGERS = [0, 1, 2, 3, 5, 7, 10, 42, 100, -1, -7, 1_800_000_000, 2**31, 2**40]
FLOATS = [0.0, -0.0, 1.0, 2.0, 0.1, 1.5, 2.5, -2.5, 65504.0, 65505.5, 100000.0, 3.4e38, 1e22, 1e300, 5e-324, 0.30000000000000004]
VERSIONS = ["1.2.3", "1.2.4", "v1.2.3", "V2", "2.0", "1", "1.2.3-alpha", "1.2.3-alpha.1", "1.2.3-beta", "1.2.3+build", "3.0.0-rc.1+x", "1.2.3.4", "x", "", "01.2.3", "1.2.x", "10.0.0", "9.9.9"]
NAMES = ["word", "word2", "int", "int2", "float", "bool", "nil", "list", "words", "version", "user.name", "user.age", "user", "gone", "user.gone", "email", "targetingKey", "$flagd.flagKey", "$flagd.timestamp"]


def context(r):
    c = {}

    def maybe(name, value, p=0.8):
        if r.random() < p:
            c[name] = value

    maybe("word", r.choice(WORDS))
    maybe("word2", r.choice(WORDS))
    maybe("email", f"user{r.randrange(50)}@{r.choice(['ours.com', 'theirs.org'])}")
    maybe("int", r.choice(INTEGERS))
    maybe("int2", r.randrange(-5, 6))
    maybe("float", r.choice(FLOATS))
    maybe("bool", r.random() < 0.5)
    maybe("nil", None)
    maybe("version", r.choice(VERSIONS))
    maybe("list", [r.choice(INTEGERS) for _ in range(r.randrange(0, 4))])
    maybe("words", [r.choice(WORDS) for _ in range(r.randrange(0, 4))])
    maybe("user", {"name": r.choice(WORDS), "age": r.randrange(0, 90), "roles": [r.choice(["admin", "dev"])]})
    key = r.choice([None, "", "user-1", f"user-{r.randrange(10**6)}", f"{r.getrandbits(64):016x}", "Ünï"])
    return [key, c]


class Rules:
    def __init__(self, r):
        self.r = r

    def chance(self, p):
        return self.r.random() < p

    def var(self):
        name = self.r.choice(NAMES)
        return self.r.choice([{"var": name}, {"var": [name]}, {"var": [name, self.literal()]}])

    def literal(self):
        r = self.r
        return r.choice([r.choice(WORDS), r.choice(INTEGERS), r.choice(FLOATS), None, r.random() < 0.5])

    def text(self, depth):
        r = self.r
        kind = r.randrange(8) if depth > 0 else r.randrange(4)
        if kind < 2:
            return r.choice(WORDS)
        if kind < 4:
            return {"var": r.choice(["word", "word2", "email", "user.name", "version", "gone", "int", "nil"])}
        if kind < 6:
            return {"cat": [self.text_or_number(depth - 1) for _ in range(r.randrange(1, 4))]}
        return {"substr": [self.text(depth - 1), r.randrange(-4, 6)] + ([r.randrange(-3, 6)] if self.chance(0.5) else [])}

    def text_or_number(self, depth):
        return self.text(depth) if self.chance(0.6) else self.number(depth)

    def number(self, depth):
        r = self.r
        kind = r.randrange(10) if depth > 0 else r.randrange(4)
        if kind < 2:
            return r.choice(INTEGERS + FLOATS)
        if kind < 4:
            return {"var": r.choice(["int", "int2", "float", "user.age", "gone", "word", "bool", "$flagd.timestamp", "nil"])}
        if kind < 6:
            return {r.choice("+*"): [self.number(depth - 1) for _ in range(r.randrange(2, 4))]}
        if kind == 6:
            return {"-": [self.number(depth - 1), self.plain_number()]}
        if kind == 7:
            return {"-": [self.number(depth - 1)]}
        if kind == 8:
            return {r.choice(["min", "max"]): [self.number(depth - 1) for _ in range(r.randrange(1, 4))]}
        return {r.choice("/%"): [r.randrange(0, 100), self.plain_number()]}

    def plain_number(self):
        return self.r.choice([1, 2, 3, 7, 0.5, 2.5, {"var": ["$flagd.timestamp"]}])

    def list(self, depth):
        r = self.r
        kind = r.randrange(8) if depth > 0 else r.randrange(4)
        if kind < 2:
            return [r.choice(WORDS + INTEGERS) for _ in range(r.randrange(0, 4))]
        if kind < 4:
            return {"var": r.choice(["list", "words", "user.roles", "gone", "word"])}
        if kind == 4:
            return {"merge": [self.list(depth - 1), self.literal()]}
        if kind == 5:
            return {"map": [self.list(depth - 1), {"+": [{"var": ""}, 1]}]}
        if kind == 6:
            return {"filter": [self.list(depth - 1), {">": [{"var": ""}, r.choice([0, 2, "a"])]}]}
        return {"missing": r.sample(["word", "int", "gone", "nil", "user.name"], 2)}

    def value(self, depth):
        return self.r.choice([self.text, self.number, lambda _: self.var(), lambda _: self.literal(), self.text, self.number])(depth)

    def version(self):
        r = self.r
        return r.choice([r.choice(VERSIONS), {"var": "version"}, {"var": "version"}, {"var": r.choice(["int", "float", "gone", "bool"])}, r.choice([1, 1.2, 2.0])])

    def condition(self, depth):
        r = self.r
        kind = r.randrange(20) if depth > 0 else r.randrange(12)
        inner = depth - 1
        if kind < 3:
            return {r.choice(["==", "!="]): [self.value(inner), self.value(inner)]}
        if kind == 3:
            return {r.choice(["===", "!=="]): [self.value(inner), self.value(inner)]}
        if kind < 6:
            return {r.choice(["<", "<=", ">", ">="]): [self.value(inner), self.value(inner)]}
        if kind == 6:
            low = r.randrange(0, 5)
            return {r.choice(["<", "<="]): [low, self.number(inner), low + r.randrange(0, 100)]}
        if kind < 9:
            return {"in": [self.value(inner), self.list(inner) if self.chance(0.5) else self.text(inner)]}
        if kind == 9:
            return {r.choice(["starts_with", "ends_with"]): [self.value(inner), self.text(inner)]}
        if kind < 12:
            op = r.choice(["=", "!=", "<", "<=", ">", ">=", "^", "~", "?"])
            return {"sem_ver": [self.version(), op, self.version()]}
        if kind < 15:
            return {r.choice(["and", "or"]): [self.condition(inner) for _ in range(r.randrange(1, 4))]}
        if kind == 15:
            return {r.choice(["!", "!!"]): self.r.choice([self.condition(inner), [self.value(inner)]])}
        if kind == 16:
            return {r.choice(["some", "all", "none"]): [self.list(inner), {r.choice(["==", ">", "<"]): [{"var": ""}, r.choice([1, 2, "a", "admin"])]}]}
        if kind == 17:
            return {"==": [{"reduce": [self.list(inner), {"+": [{"var": "current"}, {"var": "accumulator"}]}, 0]}, r.choice([0, 1, 6, 12])]}
        if kind == 18:
            return {"missing_some": [r.randrange(1, 3), r.sample(["word", "int", "gone", "nil", "user.name"], 3)]}
        return self.r.choice([self.var(), self.list(inner)])

    def share(self, depth):
        r = self.r
        variant = r.choice(VARIANTS) if self.chance(0.85) else self.answer(depth - 1)
        kind = r.randrange(20)
        if kind < 13:
            return [variant, r.randrange(0, 101)]
        if kind < 15:
            return [variant]
        if kind == 15:
            return [variant, r.choice([-5, 0, 1, 10**6, 2**30])]
        if kind == 16:
            return [variant, {"if": [self.condition(depth - 1), r.randrange(0, 100), r.randrange(0, 100)]}]
        if kind == 17:
            return [variant, {"-": [{"var": "$flagd.timestamp"}, r.choice([1_799_999_950, 1_800_000_050])]}]
        if kind == 18:
            return [variant, r.choice([25.5, 25.0, "25", None, True])]
        return r.choice([[variant, 1, 2], variant, [variant, 50]])

    def fractional(self, depth):
        r = self.r
        shares = [self.share(depth) for _ in range(r.randrange(1, 6))]
        kind = r.randrange(10)
        if kind < 4:
            return {"fractional": shares}
        if kind < 7:
            key = {"var": r.choice(NAMES)}
        elif kind == 7:
            key = {"cat": [{"var": "$flagd.flagKey"}, {"var": r.choice(["email", "word", "int"])}]}
        elif kind == 8:
            key = r.choice([{"+": [{"var": "int"}, 0.5]}, {"*": [{"var": "float"}, 1]}, {"var": ["list"]}, {"if": [{"var": "bool"}, {"var": "email"}, {"var": "int"}]}])
        else:
            key = r.choice(["literal", None, 7])
        return {"fractional": [key] + shares}

    def answer(self, depth):
        r = self.r
        kind = r.randrange(14) if depth > 0 else r.randrange(2)
        if kind < 2:
            return r.choice(VARIANTS + [None])
        if kind < 8:
            branches = []
            for _ in range(r.randrange(1, 4)):
                branches += [self.condition(depth - 1), self.answer(depth - 1)]
            if self.chance(0.8):
                branches.append(self.answer(depth - 1))
            return {"if": branches}
        if kind < 13:
            return self.fractional(depth - 1)
        return self.condition(depth - 1)

    def rule(self):
        while True:
            rule = self.answer(4)
            if isinstance(rule, dict) and len(json.dumps(rule)) < 1200:
                return rule


def generate():
    r = random.Random(SEED)
    contexts = [context(r) for _ in range(CONTEXTS)]
    rules = Rules(r)
    return contexts, [rules.rule() for _ in range(RULES)]


def asked(n):
    """Which contexts the n-th rule is asked with."""
    return [(n * 7 + k * 23) % CONTEXTS for k in range(ASKED)]


def dump(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def answer(core, general, context_type, key, targeting_key, attributes):
    try:
        found = core.resolve_string_value(key, "?", context_type(targeting_key, attributes))
    except Exception:
        return "!"
    if found.variant == "default":
        return "-"
    return LETTERS[found.variant]


def record(contexts, rules):
    import logging
    import time

    from openfeature.contrib.tools.flagd.core import FlagdCore
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.exception import GeneralError

    logging.disable(logging.CRITICAL)
    time.time = lambda: NOW
    variants = {v: v for v in [*LETTERS, "default"]}
    flags = {
        f"flag-{n}": {"state": "ENABLED", "variants": variants, "defaultVariant": "default", "targeting": rule}
        for n, rule in enumerate(rules)
    }
    core = FlagdCore()
    core.set_flags({"flags": flags})
    for n in range(len(rules)):
        letters = [answer(core, GeneralError, EvaluationContext, f"flag-{n}", *contexts[c]) for c in asked(n)]
        print("".join(letters))


def main():
    contexts, rules = generate()
    if sys.argv[1] == "rules":
        print(dump(contexts))
        for rule in rules:
            print(dump(rule))
    else:
        record(contexts, rules)


main()
