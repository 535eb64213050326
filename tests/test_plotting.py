"""The figures by their content: what is drawn where, and how it is labelled."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, TaskAlignmentAnalyzer
from kpflow_sklearn.plotting import (
    AlignmentDisplay,
    BottleneckDisplay,
    CollapseDisplay,
    LyapunovDisplay,
    SpectrumDisplay,
    TrajectoryDisplay,
    plot_range,
)
from kpflow_sklearn.results import select

matplotlib.use("agg")


@pytest.fixture(scope="module")
def trials():
    return np.random.default_rng(0).standard_normal((6, 8, 2))


@pytest.fixture(scope="module")
def analyzer(trials):
    trainer = RecurrentTrainer(hidden_size=5, max_iter=6, snapshots=3, random_state=0)
    return KPFlowAnalyzer(trainer, method="randomized", random_state=0).fit(trials)


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.mark.parametrize("quantity", ["rank", "effective_dimension", "trace", "norm"])
def test_collapse_draws_the_values_with_95_percent_bars(analyzer, quantity, ax):
    display = CollapseDisplay.from_estimator(analyzer, quantity=quantity, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    for container, name in zip(ax.containers, ("K", "P", "PKP"), strict=True):
        rows = select(analyzer.results_, name, quantity, "time")
        line, _, (bars,) = container
        np.testing.assert_array_equal(line.get_xdata(), rows.index)
        np.testing.assert_array_equal(line.get_ydata(), rows["value"])
        half = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
        np.testing.assert_allclose(half, 1.96 * rows["std_error"], atol=1e-9)
    assert quantity.split("_")[0] in ax.get_ylabel()
    assert ax.get_xlabel() == "iteration"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["K", "P", "PKP*"]


def test_missing_values_are_not_drawn(analyzer, ax):
    results = analyzer.results_.copy()
    gone = (results["operator"] == "P") & (results["iteration"] == 0)
    results.loc[gone, "value"] = np.nan
    CollapseDisplay(results).plot(ax=ax)
    assert 0 not in ax.containers[1][0].get_xdata()


def test_loss_is_the_table_s(analyzer, ax):
    CollapseDisplay(analyzer.results_).plot_loss(ax=ax)
    loss = select(analyzer.results_, "network", "loss")["value"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), loss)


def test_collapse_refuses_what_was_not_measured(analyzer):
    with pytest.raises(ValueError, match="no quantity 'rank' on axis 'trial'"):
        CollapseDisplay.from_estimator(analyzer, quantity="rank", axis="trial")


def test_trajectories_are_the_leading_components(analyzer, trials, ax):
    display = TrajectoryDisplay.from_estimator(analyzer, trials, color_by=np.arange(6), ax=ax)
    states = analyzer.trajectories(trials)
    flat = states.reshape(-1, 5) - states.reshape(-1, 5).mean(0)
    variances = np.linalg.svd(flat, compute_uv=False) ** 2
    np.testing.assert_allclose(
        display.explained_variance_ratio_, (variances / variances.sum())[:2], rtol=1e-9
    )
    np.testing.assert_allclose((display.projections_**2).sum((0, 1)), variances[:2], rtol=1e-9)
    curves = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert len(curves) == 6
    np.testing.assert_array_equal(curves[2].get_xydata(), display.projections_[2])
    assert f"{variances[0] / variances.sum():.0%}" in ax.get_xlabel()


def test_masked_steps_are_not_drawn(analyzer, trials, ax):
    mask = np.ones((6, 8), dtype=bool)
    mask[1, 3:] = False
    TrajectoryDisplay.from_estimator(analyzer, trials, mask=mask, ax=ax)
    curves = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert [len(curve.get_xdata()) for curve in curves] == [8, 3, 8, 8, 8, 8]


def test_one_unit_and_constant_states_are_drawn(ax):
    display = TrajectoryDisplay(np.ones((2, 3, 1))).plot(ax=ax)
    assert np.isfinite(display.projections_).all()


def test_color_by_must_fit_the_trials(analyzer, trials):
    with pytest.raises(ValueError, match=r"one number a trial, shape \(6,\), got \(5,\)"):
        TrajectoryDisplay.from_estimator(analyzer, trials, color_by=np.arange(5))


def test_trials_are_coloured_by_name(analyzer, trials, ax):
    names = ["pro", "anti", "$x_{$"] * 2
    display = TrajectoryDisplay.from_estimator(analyzer, trials, color_by=names, ax=ax)
    bar = display.figure_.axes[1]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["$x_{$", "anti", "pro"]
    display.figure_.draw_without_rendering()  # Fails where a name is taken for mathematics.
    colors = [line.get_color() for line in ax.lines if len(line.get_xdata()) > 1]
    assert len(set(colors)) == 3 and colors[:3] == colors[3:]


@pytest.fixture(scope="module")
def aligned(trials):
    trainer = RecurrentTrainer(hidden_size=5, max_iter=6, snapshots=[0, 3, 6], random_state=0)
    tasks = ["a", "a", "b", "b", "c", "c"]
    return TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0).fit(trials, tasks=tasks)


@pytest.mark.parametrize("kind", ["interference", "gradient", "flow", "update", "state"])
@pytest.mark.parametrize("iteration", [None, 3])
def test_heatmap_shows_the_matrix(aligned, kind, iteration, ax):
    display = AlignmentDisplay.from_estimator(aligned, kind=kind, iteration=iteration, ax=ax)
    assert display.ax_ is ax and display.figure_ is ax.figure
    at = 6 if iteration is None else iteration
    matrix = aligned.alignment_history_[kind].loc[at].to_numpy()
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), matrix)
    largest = abs(matrix).max() if kind == "interference" else 1
    assert image.get_clim() == (-largest, largest)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert f"iteration {at}" in ax.get_title()
    written = [float(t.get_text().replace("\N{MINUS SIGN}", "-")) for t in ax.texts]
    np.testing.assert_allclose(written, matrix.ravel(), rtol=0.06)


def test_long_names_and_small_numbers_leave_room_for_the_heatmap(aligned, ax):
    names = {"a": "a" * 80, "b": "$x_{$"}
    history = aligned.alignment_history_["interference"].rename(columns=names)
    display = AlignmentDisplay({"interference": history * 1e-6}, aligned.grouping_history_)
    display.plot(kind="interference", ax=ax)
    shown = [t.get_text() for t in ax.get_xticklabels()]
    assert shown == [f"{'a' * 23}…", "$x_{$", "c"]
    ax.figure.draw_without_rendering()  # Fails where a name is taken for mathematics.
    small = {text.get_fontsize() for text in ax.texts}
    other = AlignmentDisplay.from_estimator(aligned, ax=Figure().subplots())
    usual = {text.get_fontsize() for text in other.ax_.texts}
    assert max(small) < min(usual)


def test_history_draws_margins_and_marks_the_transition(aligned, ax):
    display = AlignmentDisplay.from_estimator(aligned)
    display.transition, display.lead = 6, 3
    display.plot_history(ax=ax)
    table = aligned.grouping_history_
    labels = ax.get_legend_handles_labels()[1]
    for source in ("state", "cumulative flow", "cumulative gradient"):
        line = next(line for line in ax.lines if line.get_label() == source)
        rows = table[table["source"] == source]
        np.testing.assert_array_equal(line.get_xdata(), rows["iteration"])
        np.testing.assert_array_equal(line.get_ydata(), rows["margin"])
    assert "states from 6 on" in labels and "operators from 3 on" in labels
    assert ax.get_xlabel() == "iteration" and "margin" in ax.get_ylabel()


def test_alignment_refuses_what_it_cannot_draw(aligned):
    with pytest.raises(ValueError, match="kind must be one of"):
        AlignmentDisplay.from_estimator(aligned, kind="time")
    with pytest.raises(ValueError, match="iteration must be that of a snapshot"):
        AlignmentDisplay.from_estimator(aligned, iteration=1)
    table = aligned.grouping_history_.assign(margin=np.nan)
    with pytest.raises(ValueError, match="there is no margin to draw"):
        AlignmentDisplay(aligned.alignment_history_, table).plot_history()


@pytest.fixture(scope="module")
def exact(trials):
    trainer = RecurrentTrainer(hidden_size=5, max_iter=6, snapshots=3, random_state=0)
    return KPFlowAnalyzer(trainer, random_state=0).fit(trials)


@pytest.mark.parametrize("axis", ["all", "time", "hidden"])
def test_spectra_are_shares_of_the_trace(exact, axis, ax):
    display = SpectrumDisplay.from_estimator(exact, axis=axis, ax=ax)
    assert display.ax_ is ax and display.figure_ is ax.figure
    table = exact.spectra_[exact.spectra_["axis"] == axis]
    for line in ax.lines:
        rows = table[table["operator"] == line.get_label().removesuffix("*")]
        rows = rows[rows["share"] > 1e-10]
        np.testing.assert_array_equal(line.get_xdata(), rows["index"])
        np.testing.assert_array_equal(line.get_ydata(), rows["share"])
    assert [line.get_label() for line in ax.lines] == ["K", "P", "PKP*"]
    assert ax.get_yscale() == ax.get_xscale() == "log"


def test_the_table_of_spectra_agrees_with_the_results(exact):
    for (operator, axis), rows in exact.spectra_.groupby(["operator", "axis"]):
        trace = select(exact.results_, operator, "trace", axis).loc[6, "value"]
        assert rows["index"].tolist() == list(range(1, len(rows) + 1))
        assert (rows["eigenvalue"].diff().dropna() <= 0).all()
        assert rows["eigenvalue"].sum() == pytest.approx(trace, rel=1e-9)
        assert rows["share"].sum() == pytest.approx(1, rel=1e-9)


def test_exponents_are_drawn_with_95_percent_bars(exact, ax):
    LyapunovDisplay.from_estimator(exact, ax=ax)
    line, _, (bars,) = ax.containers[0]
    np.testing.assert_array_equal(line.get_ydata(), exact.lyapunov_exponents_)
    half = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(half, 1.96 * exact.lyapunov_std_error_, atol=1e-12)
    label = ax.get_legend().get_texts()[0].get_text()
    assert label.endswith(f"{exact.kaplan_yorke_dimension_:.3g}")


def test_bottleneck_draws_ranks_and_names_the_narrower(exact, ax):
    BottleneckDisplay.from_estimator(exact, ax=ax)
    table = exact.bottleneck_
    for line, name in zip(ax.lines, ("K", "P", "PKP"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), table[f"{name}_rank"])
    assert [text.get_text() for text in ax.texts] == table["narrower"].tolist()


def test_displays_refuse_what_is_not_there(exact):
    with pytest.raises(ValueError, match="no eigenvalues on axis='trial'"):
        SpectrumDisplay.from_estimator(exact, axis="trial")
    with pytest.raises(ValueError, match="there are no finite exponents"):
        LyapunovDisplay(np.empty(0), np.empty(0)).plot()
    with pytest.raises(ValueError, match="there are no ranks to compare"):
        BottleneckDisplay(exact.bottleneck_.iloc[:0]).plot()


def test_a_range_is_drawn_as_median_and_band(ax):
    runs = pd.DataFrame([[1.0, 5.0, 2.0], [4.0, np.nan, 8.0]], index=[0, 10])
    assert plot_range(runs, ax=ax, color="black", label="three seeds") is ax
    (line,), (band,) = ax.lines, ax.collections
    assert line.get_label() == "three seeds"
    assert line.get_xydata().tolist() == [[0, 2], [10, 6]]
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert corners == {(0, 1), (0, 5), (10, 4), (10, 8)}
    assert band.get_facecolor()[0, :3].tolist() == [0, 0, 0]
