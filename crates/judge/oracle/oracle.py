"""Writes values.json: what scipy and gbstats say of questions that the judge answers too, and the process with restarts in numpy.

Everything is seeded, so that a second run gives the same file.
"""
import json
from math import log
from pathlib import Path

import numpy as np
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import ProportionStatistic
from scipy.optimize import brentq
from scipy.special import betaln
from scipy.stats import beta, mannwhitneyu

from reference import EProc, log_block_e, logmeanexp

rng = np.random.default_rng(20)


def column(*values):
    return [np.array([float(value)]) for value in values]


def factors():
    """Factors of single blocks, with the projection by Brent's method in place of bisection."""
    rows = []
    while len(rows) < 60:
        m, a = ((0.2, 0.002), (0.0, 0.0), (0.5, 0.005), (0.0, 0.01))[len(rows) % 4]
        q_s = float(np.exp(rng.uniform(log(1e-4), log(0.4))))
        limit = (1 + m) * q_s + a
        direction = 1 if rng.random() < 0.5 else -1
        q_c = min(0.98, limit * float(rng.uniform(1.05, 12) if direction > 0 else rng.uniform(0.05, 0.95)))
        n_c, n_s = int(rng.integers(1, 80)), int(rng.integers(1, 800))
        bad_c, bad_s = int(rng.binomial(n_c, q_c)), int(rng.binomial(n_s, q_s))

        def slope(p):
            at = (1 + m) * p + a
            return n_s * (p - q_s) / (p * (1 - p)) + n_c * (1 + m) * (at - q_c) / (at * (1 - at))

        p = brentq(slope, 1e-12, min(1 - 1e-9, (1 - a - 1e-9) / (1 + m)), xtol=1e-18, rtol=1e-15)
        at = (1 + m) * p + a
        ln = (bad_c * log(q_c / at) + (n_c - bad_c) * log((1 - q_c) / (1 - at))
              + bad_s * log(q_s / p) + (n_s - bad_s) * log((1 - q_s) / (1 - p)))
        rows.append({"m": m, "a": a, "direction": direction, "counts": [bad_c, n_c, bad_s, n_s],
                     "q_c": q_c, "q_s": q_s, "ln": ln})
    return rows


class Restarts(EProc):
    """Each alternative begins again at every block: R <- (R + w) * S; the adaptive one forgets, by half in 200 trials."""

    def __init__(self, m, a, horizon, first, later, **others):
        super().__init__(1, m, a, **others)
        self.horizon, self.left, self.later = horizon, 0.5, np.array(later)
        self.L = np.log(0.5 * np.array(first))[:, None]
        self.bad, self.all = np.zeros(1), np.zeros(1)
        self.banked = np.full(1, -1e9)

    def step(self):
        """What there is stands as it is; the rest begins anew."""
        self.banked = np.logaddexp(self.banked, logmeanexp(self.L, self.w))
        self.L[:] = -1e9
        self.Ys, self.Ns = np.full(1, self.prior[0]), np.full(1, self.prior[1])
        self.bad, self.all = np.zeros(1), np.zeros(1)
        self.give(self.left * 0.2)

    def give(self, weight):
        self.left -= weight
        self.L = np.logaddexp(self.L, np.log(weight * self.later)[:, None])

    def take(self, bad_c, n_c, bad_s, n_s):
        self.give(min(0.7 * 0.5, self.left * 0.7 / 0.3) / self.horizon)
        q_s = np.clip(self.Ys / self.Ns, 1e-6, 1 - 1e-6)
        limit = (1 + self.m) * q_s + self.a
        for k, multiple in enumerate(self.grid):
            q_c = np.clip(limit * multiple, 1e-6, 0.98)
            self.L[k] += log_block_e(bad_c, n_c, bad_s, n_s, q_c, q_s, self.m, self.a, 1)
        q_c = np.clip((self.bad + 20 * limit) / (self.all + 20), 1e-6, 0.98)
        self.L[-1] += log_block_e(bad_c, n_c, bad_s, n_s, q_c, q_s, self.m, self.a, 1)
        kept = 0.5 ** (n_c / 200)
        self.bad, self.all = self.bad * kept + bad_c, self.all * kept + n_c
        self.Ys, self.Ns = self.Ys + bad_s, self.Ns + n_s
        now = np.logaddexp(logmeanexp(self.L, self.w), self.banked)
        return float(np.logaddexp(now, log(self.left))[0])


def restarts():
    """Sixty healthy blocks, then a new step and forty of a faulty candidate."""
    process = Restarts(0.2, 0.002, 130, (0.2, 0.8, 1.3, 1.3, 1.2, 1.2, 1, 1), (0.1, 0.2, 0.5, 1, 2.1, 2.4, 1.3, 0.4))
    blocks, ln_e = [], []
    for block in range(100):
        if block == 60:
            process.step()
        n_c, n_s = int(rng.poisson(6)), int(rng.poisson(50))
        bad_c = int(rng.binomial(n_c, 0.01 if block < 60 else 0.08))
        blocks.append([bad_c, n_c, int(rng.binomial(n_s, 0.01)), n_s])
        ln_e.append(process.take(*column(*blocks[-1])))
    return {"m": 0.2, "a": 0.002, "horizon": 130, "step_at": 60, "blocks": blocks, "ln_e": ln_e}


def sample_ratios():
    """Lindon and Malek's evidence by scipy's betaln."""
    rows = []
    for rho, n_c, n_s in [(0.1, 12, 40), (0.1, 21, 50), (0.05, 500, 9500), (0.05, 620, 9380), (0.25, 250_000, 750_000),
                          (0.25, 252_000, 748_000), (0.5, 3, 0), (0.01, 0, 400), (0.99, 960, 40)]:
        ln = (betaln(100 * rho + n_c, 100 * (1 - rho) + n_s) - betaln(100 * rho, 100 * (1 - rho))
              - n_c * log(rho) - n_s * log(1 - rho))
        rows.append({"rho": rho, "candidate": n_c, "stable": n_s, "ln": float(ln)})
    return rows


def lower_bounds():
    """Clopper-Pearson lower bounds at one in a thousand, by scipy's beta.ppf."""
    rows = [(1, 50), (8, 50), (4, 4), (3, 10), (20, 1000), (60, 2000), (250, 1000), (999, 1000), (37, 100_000)]
    return [{"hits": k, "trials": n, "lower": float(beta.ppf(0.001, k, n - k + 1))} for k, n in rows]


def first(found):
    return next((index + 1 for index, yes in enumerate(found) if yes), None)


def sequences():
    """After how many blocks GrowthBook's asymptotic confidence sequence (tuned for 5,000 as it comes) sees that the candidate is
    worse, on the same blocks as the judge: 300 calls a block, a tenth to the candidate."""
    rows = []
    for alpha, rate in [(0.05, 0.03), (0.05, 0.05), (0.05, 0.1), (0.05, 0.2), (0.01, 0.05), (0.01, 0.1)]:
        runs = []
        for _ in range(9):
            n_c = rng.binomial(300, 0.1, 240)
            blocks = np.stack([rng.binomial(n_c, rate), n_c, rng.binomial(300 - n_c, 0.01), 300 - n_c], axis=1)
            found = []
            for bad_c, all_c, bad_s, all_s in np.cumsum(blocks, axis=0):
                test = SequentialTwoSidedTTest(
                    ProportionStatistic(n=int(all_s), sum=float(bad_s)), ProportionStatistic(n=int(all_c), sum=float(bad_c)),
                    SequentialConfig(alpha=alpha, difference_type="absolute"))
                found.append(bool(test.compute_result().ci[0] > 0))
                if found[-1]:
                    break
            runs.append({"blocks": blocks[:max(len(found), 1)].tolist(), "gbstats": first(found)})
        rows.append({"alpha": alpha, "rate": rate, "runs": runs})
    return rows


def latencies():
    """Mann and Whitney's test by scipy, looked at after each block as many dashboards do: the blocks, and its least p-value.

    Buckets have the ratio 2^(1/32); 27 values of stable and 12 of the candidate a block."""
    rows = []
    for name, factor in [("same", 1.0), ("same again", 1.0), ("slower by half", 1.5), ("twice as slow", 2.0)]:
        stable = np.exp(log(0.08) + 0.6 * rng.standard_normal((60, 27)))
        candidate = factor * np.exp(log(0.08) + 0.6 * rng.standard_normal((60, 12)))
        p = [float(mannwhitneyu(candidate[:k].ravel(), stable[:k].ravel(), alternative="greater").pvalue)
             for k in range(1, 61)]
        bucket = lambda seconds: np.floor(32 * np.log2(seconds / 1e-6)).astype(int).tolist()
        rows.append({"name": name, "stable": bucket(stable), "candidate": bucket(candidate), "p_least": min(p), "p_last": p[-1]})
    return rows


def exceedances():
    """Latency in numpy: 120 values of stable a block and 20 of the candidate, a third slower from block 12 on, and a few more
    that failed. Evidence that it is slower by more than 19 and by more than 5 buckets, and that it is not by more than 5."""
    quantiles = (0.5, 0.95, 0.99)
    prior = lambda q: ((1 - q) * 50, 50.0)
    slower = {margin: [Restarts(0.0, 0.0, 1080, [1] * 6, [1] * 6, grid=(1.25, 1.5, 2, 3, 5), prior=prior(q)) for q in quantiles]
              for margin in (19, 5)}
    safe = [EProc(1, 0.0, 0.0, -1, (0.3, 0.5, 0.7, 0.85), prior(q)) for q in quantiles[:2]]
    parts, mean = np.zeros(1024), lambda logs: float(np.logaddexp.reduce(logs) - log(len(logs)))
    blocks, worse, warned, proven = [], [], [], []
    for block in range(24):
        load = log(0.08) + 0.3 * np.sin(block / 4)
        bucket = lambda seconds: np.floor(32 * np.log2(seconds / 1e-6)).astype(int)
        stable = bucket(np.exp(load + 0.6 * rng.standard_normal(120)))
        candidate = bucket(np.exp(load + 0.6 * rng.standard_normal(20)) * (1 if block < 12 else 4 / 3))
        endless = [int(rng.binomial(120, 0.01)), int(rng.binomial(20, 0.03))]
        blocks.append({"stable": stable.tolist(), "candidate": candidate.tolist(), "endless": endless})
        total = parts.sum()
        if total >= 50 * 256:
            for index, q in enumerate(quantiles):
                edge = int((np.cumsum(parts) >= q * total).argmax())
                at = lambda values, edge, endless: [(values > edge).sum() + endless, len(values) + endless]
                for margin in (19, 5):
                    slower[margin][index].take(*column(*at(candidate, edge + margin, 0), *at(stable, edge, 0)))
                if index < len(safe):
                    safe[index].update(*column(*at(candidate, edge + 5, endless[1]), *at(stable, edge, endless[0])))
        if total > 200 * 256:
            parts = np.floor(parts * max(0.9, 200 * 256 / total))
        np.add.at(parts, stable, 256)
        ln = lambda process: float(np.logaddexp(logmeanexp(process.L, process.w), log(process.left))[0])
        worse.append(mean([ln(process) for process in slower[19]]))
        warned.append(mean([ln(process) for process in slower[5]]))
        proven.append(min(float(logmeanexp(process.L, process.w)[0]) for process in safe))
    return {"horizon": 1080, "blocks": blocks, "worse": worse, "slower": warned, "safe": proven}


values = {"factors": factors(), "restarts": restarts(), "sample_ratios": sample_ratios(), "lower_bounds": lower_bounds(),
          "sequences": sequences(), "latencies": latencies(), "exceedances": exceedances()}
lines = ",\n".join(f'"{key}": {json.dumps(value, separators=(",", ":"))}' for key, value in values.items())
Path(__file__).with_name("values.json").write_text(f"{{\n{lines}\n}}\n")
