"""Displays: what they draw, and how they label it."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from sklearn.exceptions import NotFittedError

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
from kpflow_sklearn.plotting._style import plain_log_scale
from kpflow_sklearn.results import COLUMNS, OPERATORS, select

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


def legend_of(ax):
    legend = ax.get_legend()
    return legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]


def check_bars(containers, values, errors):
    """Check values, one series per container, and their 95% intervals."""
    for (line, _, (bars,)), expected, error in zip(containers, values, errors, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), expected)
        half = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
        np.testing.assert_allclose(half, 1.96 * np.asarray(error), atol=1e-9)


@pytest.mark.parametrize("quantity", ["rank", "effective_dimension", "trace", "norm"])
def test_collapse_draws_the_values_with_95_percent_bars(analyzer, quantity, ax):
    display = CollapseDisplay.from_estimator(analyzer, quantity=quantity, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    tables = [select(analyzer.results_, name, quantity, "time") for name in OPERATORS]
    check_bars(ax.containers, *([t[column] for t in tables] for column in ("value", "std_error")))
    assert all((c[0].get_xdata() == tables[0].index).all() for c in ax.containers)
    assert quantity.split("_")[0] in ax.get_ylabel()
    assert ax.get_xlabel() == "iteration"
    assert legend_of(ax)[1] == ["K", "P", "PKP*"]


def test_missing_values_are_not_drawn(analyzer, ax):
    results = analyzer.results_.copy()
    results.loc[(results["operator"] == "P") & (results["iteration"] == 0), "value"] = np.nan
    CollapseDisplay(results).plot(ax=ax)
    assert 0 not in ax.containers[1][0].get_xdata()


def test_the_loss_is_that_of_the_table(analyzer, ax):
    CollapseDisplay(analyzer.results_).plot_loss(ax=ax)
    loss = select(analyzer.results_, "network", "loss")["value"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), loss)


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
    pieces = [len(curve.get_segments()) for curve in ax.collections]
    assert pieces == [7, 2, 7, 7, 7, 7]
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "step"


def test_one_unit_and_constant_states_are_drawn(ax):
    display = TrajectoryDisplay(np.ones((2, 3, 1))).plot(ax=ax)
    assert np.isfinite(display.projections_).all()


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
    assert "states, from iteration 6" in labels and "operators, from iteration 3" in labels
    assert ax.get_xlabel() == "iteration" and "margin" in ax.get_ylabel()


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
    check_bars(ax.containers, [exact.lyapunov_exponents_], [exact.lyapunov_std_error_])
    label = ax.get_legend().get_texts()[0].get_text()
    dimension, error = exact.kaplan_yorke_dimension_, exact.kaplan_yorke_std_error_
    assert label.endswith(f"{dimension:.3g} ± {error:.2g}" if error > 0 else f"{dimension:.3g}")


def test_bottleneck_draws_ranks_and_names_the_narrower(exact, ax):
    BottleneckDisplay.from_estimator(exact, ax=ax)
    table = exact.bottleneck_
    values = [table[f"{name}_rank"] for name in OPERATORS]
    check_bars(ax.containers, values, [table[f"{name}_rank_std_error"] for name in OPERATORS])
    assert [text.get_text() for text in ax.texts] == table["narrower"].tolist()


def test_displays_refuse_what_is_not_there(exact, aligned, trials):
    history = aligned.alignment_history_
    no_margin = aligned.grouping_history_.assign(margin=np.nan)
    failed = exact.results_.assign(seed=0, error="failed").iloc[:2]
    failed[list(COLUMNS)] = pd.NA  # As `sweep` returns cells that failed.
    no_exponents = pd.DataFrame(columns=["index", "exponent", "std_error"])
    for draw, message in (
        (lambda: CollapseDisplay.from_estimator(exact, quantity="norm", axis="trial"),
         "no quantity 'norm' on axis 'trial'"),
        (lambda: SpectrumDisplay.from_estimator(exact, axis="trial"),
         "no eigenvalues on axis='trial'"),
        (lambda: LyapunovDisplay(no_exponents).plot(), "there are no finite exponents"),
        (lambda: BottleneckDisplay(exact.bottleneck_.iloc[:0]).plot(), "no ranks to compare"),
        (lambda: AlignmentDisplay.from_estimator(aligned, kind="time"), "kind must be one of"),
        (lambda: AlignmentDisplay.from_estimator(aligned, iteration=1),
         "iteration must be that of a snapshot"),
        (lambda: AlignmentDisplay(history, no_margin).plot_history(), "no margin to draw"),
        (lambda: TrajectoryDisplay.from_estimator(exact, trials, color_by=np.arange(5)),
         r"color_by must have one value per trial, shape \(6,\), .* got shape \(5,\)"),
        (lambda: TrajectoryDisplay(trials).plot(color_by=list("abcabc"), cyclic=True),
         "color_by must be angles in radians if cyclic=True, got dtype <U1"),
        (lambda: TrajectoryDisplay(trials).plot(color_by=trials[:, 0, 0] > 0, cyclic=True),
         "color_by must be angles in radians if cyclic=True, got dtype bool"),
        (lambda: CollapseDisplay(failed).plot(), "the table has no quantity"),
        (lambda: CollapseDisplay(failed, hue="seed").plot_loss(), "the table has no losses"),
        (lambda: BottleneckDisplay.from_results(failed), "there are no ranks to compare"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            draw()


# ------------------------------------------------------------------------- colours of trajectories


def test_each_word_has_a_colour_and_an_entry_of_the_legend(analyzer, trials, ax):
    words = ["go", "left", "go", "$x_{$", "left", "go"]
    TrajectoryDisplay.from_estimator(analyzer, trials, color_by=words, label="choice", ax=ax)
    colors = [to_hex(line.get_color()) for line in ax.lines if len(line.get_xdata()) > 1]
    assert len(set(colors)) == 3
    assert colors == [colors[words.index(word)] for word in words]
    assert legend_of(ax) == ("choice", ["$x_{$", "go", "left"])
    shown = [to_hex(handle.get_color()) for handle in ax.get_legend().legend_handles]
    assert shown == [colors[3], colors[0], colors[1]]
    ax.figure.draw_without_rendering()  # Fails where a name is taken for mathematics.


def test_integers_are_categories_while_they_are_few(analyzer, trials, ax):
    TrajectoryDisplay.from_estimator(analyzer, trials, color_by=[0, 1, 1, 0, 2, 2], ax=ax)
    assert legend_of(ax)[1] == ["0", "1", "2"]
    other = Figure().subplots()
    TrajectoryDisplay.from_estimator(analyzer, trials, color_by=np.arange(6) + 0.5, ax=other)
    assert other.get_legend() is None and len(other.figure.axes) == 2
    many = np.arange(48).reshape(6, 8) // 4
    TrajectoryDisplay.from_estimator(analyzer, trials, color_by=many, label="digit", ax=other)
    bar = other.figure.axes[-1]
    assert [text.get_text() for text in bar.get_yticklabels()] == [str(k) for k in range(12)]
    assert bar.get_ylabel() == "digit"


def test_each_step_may_have_its_colour(analyzer, trials, ax):
    held = np.where(np.arange(8) < 3, "off", "on")
    display = TrajectoryDisplay.from_estimator(
        analyzer, trials, color_by=np.tile(held, (6, 1)), ax=ax
    )
    dots, lines = ax.collections[:2]
    np.testing.assert_array_equal(dots.get_offsets(), display.projections_[0])
    colors = [to_hex(color) for color in dots.get_facecolors()]
    assert colors == [colors[0]] * 3 + [colors[-1]] * 5 and colors[0] != colors[-1]
    assert len(lines.get_segments()) == 7


# ---------------------------------------------------------------------- several runs in a picture


@pytest.fixture(scope="module")
def runs(trials):
    def fitted(cell, seed):
        trainer = RecurrentTrainer(cell, hidden_size=4, max_iter=6, snapshots=3, random_state=seed)
        return KPFlowAnalyzer(trainer, axes=("time",), random_state=seed).fit(trials)

    return {cell: [fitted(cell, seed) for seed in range(3)] for cell in ("tanh", "gru")}


@pytest.fixture(scope="module")
def swept(runs):
    """Return a table like that of `sweep`, with a cell that failed."""
    tables = [
        run.results_.assign(cell=cell, seed=seed, error="")
        for cell, several in runs.items()
        for seed, run in enumerate(several)
    ]
    failed = pd.DataFrame({"cell": ["gru"], "seed": [3], "error": ["ValueError: no"]})
    return pd.concat([*tables, failed], ignore_index=True)


def check_median_and_range(ax, expected):
    """Check the lines and bands of the axes against tables (x, runs), one per line."""
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    for line, band, table in zip(lines, ax.collections, expected, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), table.index)
        np.testing.assert_allclose(line.get_ydata(), table.median(axis=1))
        edges = band.get_paths()[0].vertices
        for x, row in table.iterrows():
            here = edges[np.isclose(edges[:, 0], x), 1]
            np.testing.assert_allclose([here.min(), here.max()], [row.min(), row.max()])
        assert to_hex(line.get_color()) == to_hex(band.get_facecolor()[0])


def over_runs(runs, series_of):
    """Return one table (x, runs) per colour, from a function that gives the series of a run."""
    return [pd.concat([series_of(run) for run in fitted], axis=1) for fitted in runs.values()]


@pytest.mark.parametrize("source", ["table", "estimators"])
def test_collapse_draws_median_and_range_of_runs(runs, swept, source, ax):
    options = {"quantity": "rank", "operators": ("K", "P"), "ax": ax}
    if source == "table":
        CollapseDisplay.from_results(swept, hue="cell", **options)
    else:
        CollapseDisplay.from_estimators(runs, hue="cell", **options)
    k, p = (
        over_runs(runs, lambda run, name=name: select(run.results_, name, "rank", "time")["value"])
        for name in ("K", "P")
    )
    check_median_and_range(ax, [k[0], p[0], k[1], p[1]])
    assert legend_of(ax) == ("cell: median, range", ["tanh (3 runs)", "gru (3 runs)", "K", "P"])


def test_loss_of_several_runs(runs, swept, ax):
    CollapseDisplay(swept, hue="cell").plot_loss(ax=ax)
    losses = over_runs(runs, lambda run: select(run.results_, "network", "loss")["value"])
    check_median_and_range(ax, losses)


def test_bottleneck_of_several_runs_is_the_ratio(runs, swept, ax):
    BottleneckDisplay.from_results(swept, hue="cell", ax=ax)
    tables = over_runs(
        runs, lambda run: run.bottleneck_.set_index("iteration").eval("P_rank / K_rank")
    )
    check_median_and_range(ax, tables)
    assert legend_of(ax) == ("cell: median, range", ["tanh (3 runs)", "gru (3 runs)"])
    assert "K is narrower" in ax.get_ylabel()


def test_spectra_and_exponents_of_several_runs(runs, ax):
    SpectrumDisplay.from_estimators(runs, operators=("K",), ax=ax)
    shares = over_runs(
        runs, lambda run: run.spectra_.query("operator == 'K'").set_index("index")["share"]
    )
    check_median_and_range(ax, [s.where(s > 1e-10).dropna(how="all") for s in shares])
    other = Figure().subplots()
    LyapunovDisplay.from_estimators(runs, ax=other)
    exponents = over_runs(runs, lambda run: pd.Series(run.lyapunov_exponents_, range(1, 5)))
    check_median_and_range(other, exponents)


def test_one_run_a_colour_keeps_its_95_percent_bars(runs, ax):
    first = {name: fitted[0] for name, fitted in runs.items()}
    LyapunovDisplay.from_estimators(first, ax=ax)
    values = [run.lyapunov_exponents_ for run in first.values()]
    check_bars(ax.containers, values, [run.lyapunov_std_error_ for run in first.values()])
    assert legend_of(ax) == ("run", ["tanh", "gru"])


def test_numbers_as_hue_are_in_order_of_lightness(swept, ax):
    table = swept[swept["error"] == ""].copy()
    table["init_scale"] = 2.0 - table["seed"].astype(float)
    CollapseDisplay(table, hue="init_scale").plot(operators=("K",), ax=ax)
    assert legend_of(ax)[1] == ["0.0 (2 runs)", "1.0 (2 runs)", "2.0 (2 runs)"]
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    lightness = [np.dot(to_rgb(line.get_color()), [0.2126, 0.7152, 0.0722]) for line in lines]
    assert lightness[0] < lightness[1] < lightness[2]


def trained_at(snapshots, seed):
    """Return the table of one run whose rank of K is 10 * (seed + 1) + iteration."""
    return pd.DataFrame(
        {
            "iteration": snapshots,
            "operator": "K",
            "axis": "time",
            "quantity": "rank",
            "task": "",
            "value": [10.0 * (seed + 1) + at for at in snapshots],
            "std_error": 1.0,
        }
    )


def rank_of(tables, **columns):
    return pd.concat(
        [table.assign(seed=seed, **columns) for seed, table in enumerate(tables)],
        ignore_index=True,
    )


RANK_OF_K = {"quantity": "rank", "operators": ("K",)}
SEVERAL_RUNS = "the table contains several runs: set hue to the column"


@pytest.mark.parametrize("source", ["table", "estimators"])
def test_the_median_is_over_iterations_that_all_runs_share(source, ax):
    tables = [trained_at(at, seed) for seed, at in enumerate([[0, 1, 5, 9], [0, 5, 7, 9]])]
    if source == "table":
        table = rank_of(tables, cell="gru")
        CollapseDisplay.from_results(table, hue="cell", ax=ax, **RANK_OF_K)
    else:
        fitted = [KPFlowAnalyzer() for _ in tables]
        for estimator, table in zip(fitted, tables, strict=True):
            estimator.results_ = table
        CollapseDisplay.from_estimators({"gru": fitted}, ax=ax, **RANK_OF_K)
    runs = pd.DataFrame({0: [10.0, 15, 19], 1: [20.0, 25, 29]}, index=[0, 5, 9])
    check_median_and_range(ax, [runs])
    assert legend_of(ax)[1] == ["gru (2 runs)"]


def test_runs_that_cannot_be_drawn_as_one_are_refused(ax):
    tables = [trained_at([1, 5, 9], 0), trained_at([2, 6, 10], 1)]
    apart = rank_of(tables, cell="gru")
    with pytest.raises(ValueError, match="the 2 runs of one colour have no iteration in common"):
        CollapseDisplay(apart, hue="cell").plot(ax=ax, **RANK_OF_K)
    with pytest.raises(ValueError, match=SEVERAL_RUNS):
        CollapseDisplay(apart).plot(ax=ax, **RANK_OF_K)
    CollapseDisplay(apart, hue="seed").plot(ax=ax, **RANK_OF_K)
    assert [c[0].get_xdata().tolist() for c in ax.containers] == [[1, 5, 9], [2, 6, 10]]
    nameless = rank_of([tables[0], tables[0]], cell="gru").drop(columns="seed")
    with pytest.raises(ValueError, match="several values of one run at the same iteration: add"):
        CollapseDisplay(nameless, hue="cell").plot(ax=ax, **RANK_OF_K)


def test_a_value_missing_in_one_run_is_missing_in_the_median(ax):
    tables = [trained_at([0, 1, 2, 3], seed) for seed in range(3)]
    tables[2].loc[1, "value"] = np.nan
    CollapseDisplay(rank_of(tables, cell="gru"), hue="cell").plot(ax=ax, **RANK_OF_K)
    values = pd.DataFrame({k: 10.0 * (k + 1) + np.array([0, 2, 3]) for k in range(3)})
    check_median_and_range(ax, [values.set_axis([0, 2, 3])])


@pytest.mark.parametrize("none, given", [(np.nan, 1.0), (None, "norm")])  # As sweep has them.
def test_none_is_a_value_of_the_hue(none, given, ax):
    tables = [trained_at([0, 1, 2], seed) for seed in range(2)]
    table = pd.concat([rank_of(tables, clip=none), rank_of(tables, clip=given)], ignore_index=True)
    assert table["clip"].isna().sum() == 6
    CollapseDisplay.from_results(table, hue="clip", ax=ax, **RANK_OF_K)
    assert legend_of(ax)[1] == [f"{given} (2 runs)", "none (2 runs)"]
    both = pd.DataFrame({0: [10.0, 11, 12], 1: [20.0, 21, 22]})
    check_median_and_range(ax, [both, both])
    colors = {to_hex(line.get_color()) for line in ax.lines if len(line.get_xdata()) > 2}
    assert len(colors) == 2


def test_shares_too_small_to_draw_still_count_in_the_median(ax):
    no_trace = [np.nan] * 4  # Its shares are unknown, not zero.
    shares = [[0.6, 0.4, 1e-14, -1e-17], [0.7, 0.3, 0, 0], [0.5, 0.3, 0.2, 0], no_trace]
    tables = [
        pd.DataFrame({"operator": "K", "axis": "time", "index": range(1, 5), "share": share})
        for share in shares
    ]
    table = rank_of(tables, cell="gru")
    SpectrumDisplay(table, hue="cell").plot(operators=("K",), ax=ax)
    expected = {0: [0.6, 0.4, 0], 1: [0.7, 0.3, 0], 2: [0.5, 0.3, 0.2]}
    check_median_and_range(ax, [pd.DataFrame(expected, index=[1, 2, 3])])
    assert legend_of(ax)[1] == ["gru (3 runs)"]
    assert ax.get_ylim()[0] > 1e-3


def test_hue_is_refused_where_it_says_too_little_or_too_much(runs, swept):
    with pytest.raises(ValueError, match=SEVERAL_RUNS):
        CollapseDisplay(swept).plot()
    with pytest.raises(ValueError, match=SEVERAL_RUNS):
        BottleneckDisplay.from_results(swept)
    with pytest.raises(ValueError, match="hue must be a column of the table, got 'gain'; it has"):
        CollapseDisplay(swept, hue="gain").plot()
    words = swept.assign(word=[f"w{k}" for k in range(len(swept))])
    with pytest.raises(ValueError, match="but there are only 8 colours for words"):
        CollapseDisplay(words, hue="word").plot()
    with pytest.raises(ValueError, match="runs must map names to fitted estimators"):
        SpectrumDisplay.from_estimators(runs["gru"])
    other = KPFlowAnalyzer(rank_threshold=0.9)
    other.results_ = runs["gru"][0].results_
    message = r"runs must have the same rank_threshold, got \[0.9, 0.95\]"
    with pytest.raises(ValueError, match=message):
        CollapseDisplay.from_estimators({"a": runs["gru"][0], "b": other}, quantity="rank")
    with pytest.raises(NotFittedError):
        BottleneckDisplay.from_estimators({"a": KPFlowAnalyzer()})


def test_a_range_is_drawn_as_median_and_band(ax):
    runs = pd.DataFrame([[1.0, 5.0, 2.0], [4.0, np.nan, 8.0]], index=[0, 10])
    assert plot_range(runs, ax=ax, color="black", label="three seeds") is ax
    (line,), (band,) = ax.lines, ax.collections
    assert line.get_label() == "three seeds"
    assert line.get_xydata().tolist() == [[0, 2], [10, 6]]
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert corners == {(0, 1), (0, 5), (10, 4), (10, 8)}
    assert band.get_facecolor()[0, :3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("limits", [(1.19, 1.23), (0.3, 0.4), (3.0, 4.9), (1.0, 300.0)])
def test_a_log_scale_has_labels_however_narrow(limits, ax):
    ax.plot([0, 1], limits)
    plain_log_scale(ax)
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    labels = [t.get_text() for t in ax.get_yticklabels() if low <= t.get_position()[1] <= high]
    assert len(labels) >= 2 and all(labels) and not any("10^" in text for text in labels)
