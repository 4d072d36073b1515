"""Writes ../tests/golden/traces.json: the reference's evidence after each of eight blocks, to twelve digits.

The blocks and the three processes are those of the project's golden traces; the numbers come from reference.py alone.
"""
import json
from pathlib import Path

import numpy as np

from reference import EProc

BLOCKS = [(0, 12, 1, 110), (1, 9, 0, 95), (0, 0, 2, 120), (2, 15, 1, 101),
          (1, 30, 3, 270), (4, 33, 2, 260), (3, 28, 0, 240), (5, 40, 4, 300)]
WORSE = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
WITHIN = (0.3, 0.5, 0.7, 0.85)


def trace(m, a, direction, grid, adaptive=True):
    process = EProc(1, m, a, direction, grid, (0.5, 100.0), adaptive)
    ln_e = []
    for block in BLOCKS:
        now = process.update(*[np.array([float(count)]) for count in block])
        ln_e.append(round(float(now[0]), 12))
    return {"m": m, "a": a, "direction": direction, "grid": grid, "adaptive": adaptive,
            "prior": [0.5, 100.0], "blocks": BLOCKS, "ln_e": ln_e,
            "alternatives": [round(float(ln), 12) for ln in process.L[:, 0]]}


traces = [trace(0.2, 0.002, 1, WORSE), trace(0.0, 0.0, 1, (2.0,), adaptive=False), trace(0.5, 0.005, -1, WITHIN)]
lines = ",\n".join(json.dumps(one) for one in traces)
path = Path(__file__).parent / "../tests/golden/traces.json"
path.write_text(f"[\n{lines}\n]\n")
