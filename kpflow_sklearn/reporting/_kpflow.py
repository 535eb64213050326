"""The sections of a report on a `KPFlowAnalyzer`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting import CollapseDisplay, LyapunovDisplay, SpectrumDisplay
from kpflow_sklearn.reporting._origin import KPFLOW as PAPER
from kpflow_sklearn.reporting._page import Section, Table
from kpflow_sklearn.reporting._pictures import Drawing, drawn
from kpflow_sklearn.reporting._reading import read_analysis_in_words as read
from kpflow_sklearn.reporting._tables import (
    Measured,
    cell,
    error_cell,
    from_frame,
    over_training,
    spelled,
)
from kpflow_sklearn.results import select

__all__ = ["PAPER", "SUBJECT", "count", "read", "sections"]

SUBJECT = "KPFlow"

LABELS = {"K": "K", "P": "P", "PKP": "PKP*"}
_QUANTITIES = ("rank", "effective_dimension", "trace", "norm")
_MOST_EXPONENTS = 10


def introduction(analyzer: Any) -> str:
    """Say what the operators are, and what the numbers do not know."""
    return (
        "Gradient descent moves the states of a recurrent network by −PKP* Err: P* "
        "carries the error back in time, the parameter operator K turns it into what changing the "
        "weights can do at each step, and the propagator P carries that on. A rank is the number "
        f"of leading eigenvalues that hold {analyzer.rank_threshold:.0%} of the trace of an "
        "operator's Gram G, an effective dimension is (tr G)² / "
        "tr G². s.e. is the standard error of the computation, "
        "“exact” means up to rounding, “bracketed” that "
        "the 95% interval of an estimated rank holds this integer alone. "
        "It knows nothing of other trials or seeds: this is one run."
    )


def sections(analyzer: Any) -> list[Section]:
    """Return what was measured: over training, by axis, of weight maps and trajectories."""
    return [
        _training(analyzer),
        _axes(analyzer),
        _signals(analyzer),
        _weight_maps(analyzer),
        _lyapunov(analyzer),
    ]


def count(analyzer: Any) -> str:
    """Say on how much the network was analysed."""
    n_trials, n_timesteps = next(iter(analyzer.eigenfunctions_.values())).shape[1:3]
    return f"{n_trials} trials of {n_timesteps} steps"


def _on_time_axis(quantity: str, name: str) -> list[Measured]:
    return [
        Measured(f"{name} {label}", operator, quantity, "time", f"s.e. of {name} {label}")
        for operator, label in LABELS.items()
    ]


def _training(analyzer: Any) -> Section:
    results, bottleneck = analyzer.results_, analyzer.bottleneck_
    loss = Measured("loss", "network", "loss")
    verdict = bottleneck.set_index("iteration")[["narrower", "ratio"]] if len(bottleneck) else None
    rule = (
        "narrower: which of K and P has the smaller rank, and how many times; "
        "“neither” where PKP* exceeds "
        "both by more than 1.96 standard errors, "
        "“undecided” where K and P "
        "differ by less."
    )
    agreement = (
        "flow agreement: the cosine of −PKP* Err with the measured change of the "
        "states up to the next snapshot; low where optimizer, batches or step size left the flow."
    )
    flow = Measured("flow agreement", "PKP", "flow_agreement")
    tables = [
        over_training(
            "Bottleneck: ranks on the time axis",
            results,
            [loss, *_on_time_axis("rank", "rank")],
            beside=verdict,
            notes=[rule] if verdict is not None else ["Not all of K, P and PKP* were measured."],
        ),
        over_training(
            "Effective dimensions on the time axis",
            results,
            [*_on_time_axis("effective_dimension", "dim."), flow],
            notes=[agreement],
        ),
    ]
    return Section("Over training", [introduction(analyzer)], drawn(_courses(analyzer)), tables)


def _courses(analyzer: Any) -> list[Drawing]:
    display = CollapseDisplay(analyzer.results_, rank_threshold=analyzer.rank_threshold)
    loss = select(analyzer.results_, "network", "loss")["value"]
    bars = "Bars are 95% intervals of the computation."
    return [
        Drawing(
            lambda ax: display.plot_loss(ax=ax),
            "Loss on the analysed trials.",
            f"Loss over training: {_course(loss)}.",
        ),
        Drawing(
            lambda ax: display.plot(quantity="effective_dimension", ax=ax),
            f"Effective dimension of the operators on the time axis. {bars}",
            f"Effective dimension over training: {_courses_of(analyzer, 'effective_dimension')}.",
        ),
        Drawing(
            lambda ax: display.plot(quantity="rank", ax=ax),
            f"Rank of the operators on the time axis. {bars}",
            f"Rank over training: {_courses_of(analyzer, 'rank')}.",
        ),
    ]


def _courses_of(analyzer: Any, quantity: str) -> str:
    found = {
        label: select(analyzer.results_, operator, quantity, "time")["value"].dropna()
        for operator, label in LABELS.items()
    }
    return "; ".join(f"{label} {_course(v)}" for label, v in found.items() if len(v))


def _course(values: pd.Series) -> str:
    return f"{values.iloc[0]:.3g} at iteration {values.index[0]}" + (
        f", {values.iloc[-1]:.3g} at iteration {values.index[-1]}" if len(values) > 1 else ""
    )


def _axes(analyzer: Any) -> Section:
    last = analyzer.snapshots_[-1].iteration
    how = "partial trace" if analyzer.reduction == "trace" else "averaging over the others"
    words = (
        f"At iteration {last}. Each Gram ({analyzer.gram}) is reduced to an axis by {how}; “all” "
        "is the whole space of trials, steps and units. Traces and norms of different operators "
        "have different units."
    )
    pictures = [_spectrum(analyzer, axis) for axis in analyzer.spectra_["axis"].unique()]
    return Section("Spectra by axis", [words], drawn(pictures), [_axis_table(analyzer, last)])


def _spectrum(analyzer: Any, axis: str) -> Drawing:
    on = "whole space" if axis == "all" else f"{axis} axis"
    return Drawing(
        lambda ax: SpectrumDisplay(analyzer.spectra_).plot(axis=axis, ax=ax),
        f"Spectra, {on}.",
        f"Eigenvalues of the operators, {on}, as shares of their traces.",
    )


def _axis_table(analyzer: Any, last: int) -> Table:
    at_last = analyzer.results_[analyzer.results_["iteration"] == last]
    headings = ["operator", "axis"]
    for quantity in _QUANTITIES:
        headings += [quantity.replace("_", " "), f"s.e. of {quantity.replace('_', ' ')}"]
    rows, reasons = [], set()
    for operator, label in LABELS.items():
        for axis in at_last.loc[at_last["operator"] == operator, "axis"].unique():
            row = [cell(label), cell(axis)]
            for quantity in _QUANTITIES:
                found = select(at_last, operator, quantity, axis)
                if not len(found):
                    row += [cell(None), cell(None)]
                    continue
                row += [cell(found["value"].iloc[0]), error_cell(found.iloc[0], quantity)]
                reasons |= {found["reason"].iloc[0]} - {""}
            if any(c.value is not None for c in row):
                rows.append(row)
    notes = [f"Missing: {reason}." for reason in sorted(reasons)]
    return Table("Operators by axis", headings, rows, notes)


def _signals(analyzer: Any) -> Section:
    words = (
        "Effective dimension on the hidden axis, uncentred, of the error Err, of what P*, K and P "
        "make of it, and of the states Z. PKP*Err is the change that the next gradient step makes."
    )
    agreement = over_training(
        "How far the parameters let the states move",
        analyzer.results_,
        [
            Measured("direction agreement", "PKP", "direction_agreement"),
            Measured(
                "operator agreement", "PKP", "operator_agreement", None, "s.e. of the latter"
            ),
        ],
        notes=[
            "direction agreement: cosine of PKP* Err with PP* Err, where free pushes would move "
            "the states; operator agreement: the same for errors of every direction."
        ],
    )
    dimensions = from_frame("Dimensions of signals", analyzer.signal_dimensions_)
    return Section("Error, change and states", [words], tables=[dimensions, agreement])


def _weight_maps(analyzer: Any) -> Section:
    maps = analyzer.weight_maps_
    if not len(maps):
        words = "The network's step is not made of weight maps alone, so that K has no such parts."
        return Section("Weight maps", [words])
    words = (
        "K is a sum over the network's weight maps, K_j: u is what enters the map, S how strongly "
        "its result moves the states. Bounds are those that hold: of the exact rank on the time "
        "axis, and of the rank within a unit."
    )
    at = f"Weight maps at iteration {analyzer.snapshots_[-1].iteration}"
    return Section("Weight maps", [words], tables=[from_frame(at, spelled(maps))])


def _lyapunov(analyzer: Any) -> Section:
    exponents = analyzer.lyapunov_exponents_
    if not pd.notna(exponents).any():
        return Section("Lyapunov exponents", ["Trials of a single step have none."])
    if not np.isfinite(exponents).any():
        every = "All are minus infinity: every small push dies at once, as of units that are "
        return Section("Lyapunov exponents", [f"{every}silent or saturated."])
    dimension, error = analyzer.kaplan_yorke_dimension_, analyzer.kaplan_yorke_std_error_
    words = (
        "Growth rates of small pushes along the analysed trials (256 of them, evenly spaced, if "
        "there are more) of the trained network, per unit of time; s.e. is over trials."
    )
    if dimension is not None:
        spread = f" ± {error:.2g} (s.e. over trials)" if error > 0 else ""
        words += f" Kaplan–Yorke dimension {dimension:.4g}{spread}."
    if n_dead := int(np.isneginf(exponents).sum()):
        words += f" {n_dead} of {len(exponents)} are minus infinity: pushes that die at some step."
    table = pd.DataFrame(
        {
            "number": range(1, len(exponents) + 1),
            "exponent": exponents,
            "s.e. of exponent": analyzer.lyapunov_std_error_,
        }
    )
    name = f"Largest of {len(table)} exponents" if len(table) > _MOST_EXPONENTS else "Exponents"
    picture = Drawing(
        lambda ax: LyapunovDisplay.from_estimator(analyzer, ax=ax),
        "Lyapunov exponents; bars are 95% intervals over trials.",
        f"Lyapunov exponents in descending order, the largest {exponents[0]:.3g}.",
    )
    tables = [from_frame(name, table.head(_MOST_EXPONENTS))]
    return Section("Lyapunov exponents", [words], drawn([picture]), tables)
