"""At which block the reference decides: reads runs of blocks as JSON, prints the answers as JSON.

Input: {"margin": [relative, absolute], "alpha": 0.01, "runs": [[[bad_c, n_c, bad_s, n_s], ...], ...]}
Output: {"found": [1-based block or null, ...], "last": [log of the evidence after each run's last block, ...]}
"""
import json
import sys
from math import log
from pathlib import Path

import numpy as np

# The one that the judge's own oracles use.
sys.path.insert(0, str(Path(__file__).parents[2] / "judge" / "oracle"))
from reference import EProc  # noqa: E402

asked = json.load(sys.stdin)
m, a = asked["margin"]
runs = np.array(asked["runs"], dtype=float)
process = EProc(len(runs), m, a)
found = np.full(len(runs), -1)
for t in range(runs.shape[1]):
    bad_c, n_c, bad_s, n_s = runs[:, t, :].T
    evidence = process.update(bad_c, n_c, bad_s, n_s)
    found[(evidence >= log(1 / asked["alpha"])) & (found < 0)] = t + 1
json.dump(
    {
        "found": [int(t) if t > 0 else None for t in found],
        "last": [float(e) for e in evidence],
    },
    sys.stdout,
)
