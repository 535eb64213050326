"""The effect of the gain of the recurrent weights on K and P: RNN and GRU, g from 0.5 to 3.

Networks are trained on Memory-Pro with Adam, and compared on the same 32 noise-free trials at
fixed iterations.

The following definitions were fixed before the run. Gain: recurrent weights are drawn from
N(0, g^2/H) in each gate block. Ranks: on the time axis, at 95% of the trace. Bottleneck: K or P,
whichever has the smaller rank, by more than 1.96 standard errors where ranks are estimated;
"neither" if PKP* exceeds both. Exponent: the largest Lyapunov exponent per step on the analysed
trials, before and after training. All results are medians and ranges over seeds. The claims are
tested for each seed:

- "larger g converges faster": the loss at iteration EARLY is smaller than at the next lower gain.
- "K low-rank, P high-rank": the bottleneck is K at every snapshot.
- "K filters the change": the rank of PKP* is at most half of that of P at every snapshot.

A claim holds at a gain if it fails in at most one of five seeds.

    python examples/gain_sweep.py --seeds 5 --jobs 4 --cache gain_sweep
"""

import argparse

import numpy as np
import pandas as pd

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, sweep
from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.results import bottleneck_table, select

GAINS = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
EARLY = 0.2  # Fraction of training after which convergence is compared.
PERIODS = {"stimulus": 20, "memory": 20, "response": 20}


def run(options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of the trained and the untrained networks."""
    X, y = make_memory_pro(1024, noise_std=0.1, random_state=0, **PERIODS)
    Xa, ya = make_memory_pro(32, evenly_spaced=True, **PERIODS)
    last = options.max_iter
    kept = sorted({0, *(int(last * share) for share in (0.04, 0.1, EARLY, 0.5, 1.0))})
    trainer = RecurrentTrainer(
        hidden_size=options.hidden_size, learning_rate=1e-3, max_iter=last, snapshots=kept,
        batch_size=64, grad_clip=1.0,
    )  # fmt: skip
    analyzer = KPFlowAnalyzer(trainer, axes=("time",))
    untrained = KPFlowAnalyzer(trainer, axes=("time",), operators=("K",))
    grid = {"cell": ["tanh", "gru"], "init_scale": options.gains}
    common = {"n_seeds": options.seeds, "n_jobs": options.jobs, "cache_dir": options.cache}
    given = {"X_analysis": Xa, "y_analysis": ya}
    trained = sweep(analyzer, grid, X, y, **common, **given)
    before = grid | {"max_iter": [0], "snapshots": [1]}
    return trained, sweep(untrained, before, X, y, **common, **given)


def describe(fit: pd.DataFrame, untrained: pd.DataFrame) -> dict[str, float]:
    """Return the reported numbers of one network."""
    ranks = bottleneck_table(fit).set_index("iteration")
    loss = select(fit, "network", "loss")["value"]
    exponent = "largest_lyapunov_exponent"
    early = loss.index[int(np.argmin(abs(loss.index.to_numpy(float) - EARLY * loss.index[-1])))]
    row = {"early loss": loss[early], "final loss": loss.iloc[-1]}
    for when, iteration in (("untrained", ranks.index[0]), ("trained", ranks.index[-1])):
        for name in ("K", "P", "PKP"):
            row[f"{name} {when}"] = ranks.loc[iteration, f"{name}_rank"]
    row["exponent untrained"] = select(untrained, "network", exponent)["value"].iloc[0]
    row["exponent trained"] = select(fit, "network", exponent)["value"].iloc[0]
    row["bottleneck K"] = (ranks["narrower"] == "K").mean()
    row["bottleneck P"] = (ranks["narrower"] == "P").mean()
    row["K filters"] = (2 * ranks["PKP_rank"] <= ranks["P_rank"]).mean()
    return row


def networks(trained: pd.DataFrame, untrained: pd.DataFrame) -> pd.DataFrame:
    """Return one row per network, without failed ones."""
    keys = ["cell", "init_scale", "seed"]
    start = dict(iter(untrained[untrained["error"] == ""].groupby(keys)))
    fits = trained[trained["error"] == ""].groupby(keys)
    rows = [dict(zip(keys, key, strict=True)) | describe(fit, start[key]) for key, fit in fits]
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """Return in how many seeds each claim holds, for each cell and gain."""
    rows = []
    for (cell, g), group in table.groupby(["cell", "init_scale"]):
        lower = table[(table["cell"] == cell) & (table["init_scale"] < g)]
        n, faster = len(group), None
        if len(lower):
            below = lower[lower["init_scale"] == lower["init_scale"].max()].set_index("seed")
            loss = group.set_index("seed")["early loss"]
            faster = int((loss < below["early loss"].reindex(loss.index)).sum())
        low, filters = ((group[name] == 1).sum() for name in ("bottleneck K", "K filters"))
        rows.append(
            {
                "cell": cell,
                "g": g,
                "faster than the next lower gain": "-" if faster is None else f"{faster} of {n}",
                "K is the bottleneck": f"{low} of {n}",
                "K filters": f"{filters} of {n}",
            }
        )
    return pd.DataFrame(rows)


def ranges(table: pd.DataFrame) -> pd.DataFrame:
    """Return the median and range over seeds."""
    groups = table.drop(columns="seed").groupby(["cell", "init_scale"])
    return groups.agg(lambda v: f"{v.median():.3g} ({v.min():.3g} to {v.max():.3g})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gains", type=float, nargs="+", default=GAINS)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--max-iter", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cache", help="folder for finished networks")
    settings = parser.parse_args()
    result = networks(*run(settings))
    print(ranges(result).T.to_string(), "\n")
    print(claims(result).to_string(index=False))
