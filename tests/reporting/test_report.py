"""The report: its numbers are the analyzer's, its text is only text, its file whole."""

from __future__ import annotations

import copy
import io
import os
import tomllib
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    report,
)
from kpflow_sklearn._common.files import write_whole
from kpflow_sklearn.reporting import (
    _alignment,
    _report,
    read_alignment_in_words,
    read_analysis_in_words,
)
from kpflow_sklearn.reporting._pictures import Drawing, drawn
from kpflow_sklearn.reporting._reading_gram import read_gram_in_words
from kpflow_sklearn.reporting._reading_kpflow import _agreement
from kpflow_sklearn.reporting._tables import cell, error_cell, from_frame
from kpflow_sklearn.reporting._templates import say
from kpflow_sklearn.reporting._trajectories import draw_trajectories
from kpflow_sklearn.results import read_results, row, select, to_frame
from tests.tools.pages import FoundPage, content_of

HOSTILE = ["<script>alert(1)</script>", "$\\frac$ & $x_{$", '"><img src=x onerror=alert(1)>']
RNG = np.random.default_rng(0)
TRIALS = RNG.standard_normal((9, 8, 2))
ROWS = pd.DataFrame(RNG.standard_normal((12, 3)), columns=HOSTILE)
TARGETS = RNG.standard_normal(12)
TASKS = HOSTILE * 3


def recurrent_trainer(**options):
    settings = {"hidden_size": 5, "max_iter": 6, "snapshots": [0, 3, 6], "random_state": 0}
    return RecurrentTrainer(**{**settings, **options})


@pytest.fixture(scope="module")
def kpflow():
    options = {"method": "randomized", "n_probes": 30, "random_state": 0}
    analyzer = KPFlowAnalyzer(recurrent_trainer(), **options)
    return analyzer.fit(TRIALS, TRIALS.cumsum(1))


@pytest.fixture(scope="module")
def alignment():
    analyzer = TaskAlignmentAnalyzer(recurrent_trainer(), n_groups=2, random_state=0)
    return analyzer.fit(TRIALS, TRIALS.cumsum(1), tasks=TASKS, periods={"early": (0, 4)})


@pytest.fixture(scope="module")
def gram():
    trainer = FeedForwardTrainer((6, 5), max_iter=20, snapshots=3, random_state=0)
    return GramFlowAnalyzer(trainer, n_components=3, random_state=0).fit(ROWS, TARGETS)


@pytest.fixture(scope="module")
def cases(kpflow, alignment, gram):
    """Return each analyzer with data, options of the report, and its reading."""
    recurrent = (TRIALS, TRIALS.cumsum(1))
    return {
        "kpflow": (kpflow, recurrent, {"color_by": np.arange(9)}, read_analysis_in_words),
        "alignment": (alignment, recurrent, {"tasks": TASKS}, read_alignment_in_words),
        "gram": (gram, (ROWS, TARGETS), {}, read_gram_in_words),
    }


@pytest.fixture(scope="module")
def texts(cases, tmp_path_factory):
    """Return the reports of all three analyzers, with data and figures, as HTML."""
    folder = tmp_path_factory.mktemp("reports")
    return {
        name: report(analyzer, folder / f"{name}.html", *data, **options).read_text("utf-8")
        for name, (analyzer, data, options, _) in cases.items()
    }


@pytest.fixture(scope="module")
def pages(texts):
    return {name: FoundPage(html) for name, html in texts.items()}


@pytest.fixture
def page_of(tmp_path, monkeypatch):
    """Return a function that reports on an analyzer, without figures unless they are looked at."""

    def make(analyzer, *data, figures=False, **options):
        if not figures:
            monkeypatch.setattr("kpflow_sklearn.plotting._style.find_spec", lambda name: None)
        path = report(analyzer, tmp_path / "out.html", *data, **options)
        return FoundPage(path.read_text("utf-8"))

    return make


SECTIONS = {
    "kpflow": "over-training spectra-by-axis error-and-states weight-maps "
    "lyapunov-exponents state-trajectories verification settings origin",
    "alignment": "alignment groups what-carries-interference state-trajectories verification "
    "settings origin",
    "gram": "training layers kernel-and-its-modes verification settings origin",
}
N_FIGURES = {"kpflow": 8, "alignment": 7, "gram": 5}


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_is_there_and_linked_and_nothing_is_loaded_or_run(texts, pages, name):
    page, expected = pages[name], SECTIONS[name].split()
    assert page.ids == ["reading", *expected]
    assert [link[1:] for link in page.links if link.startswith("#")] == expected
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert "default-src 'none'" in texts[name] and len(texts[name]) < 700_000


@pytest.mark.parametrize("name", SECTIONS)
def test_figures_decode_and_are_described(pages, name):
    page = pages[name]
    assert len(page.images) == N_FIGURES[name]
    for image in page.images:
        kind, content = content_of(image["src"])
        assert kind == "image/svg+xml"
        drawing = ElementTree.fromstring(content)
        assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) > 5
        assert len(image["alt"]) > 20
        ratio = float(image["width"]) / float(image["height"])
        width, height = map(float, drawing.attrib["viewBox"].split()[2:])
        assert ratio == pytest.approx(width / height, rel=0.01)


@pytest.mark.parametrize("name", SECTIONS)
def test_the_reading_is_the_command_s_and_the_results_can_be_saved(pages, cases, name, tmp_path):
    analyzer, _, _, read = cases[name]
    assert read(analyzer) in pages[name].text
    (uri,) = [link for link in pages[name].links if link.startswith("data:text/csv")]
    (tmp_path / "results.csv").write_bytes(content_of(uri)[1])
    table = read_results(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(table, analyzer.results_, check_categorical=False)
    assert table.attrs["seed"] == "0" and "updates by" in table.attrs["training"]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_reading_says_if_no_loss_is_finite(cases, name):
    analyzer, _, _, read = cases[name]
    fitted, without = copy.copy(analyzer), analyzer.results_.copy()
    without.loc[without["quantity"] == "loss", "value"] = np.nan
    fitted.results_ = without
    words = read(fitted)
    assert words.startswith("At no snapshot is the loss o") and "nan" not in words


def test_a_conflict_beyond_float64_has_no_carrier(alignment):
    fitted = copy.copy(alignment)
    fitted.alignment_history_ = alignment.alignment_history_ | {
        "gradient": alignment.alignment_history_["gradient"] * 0 - 0.5
    }
    assert "with the largest contribution from the weights of" in read_alignment_in_words(fitted)
    fitted.interference_by_map_ = alignment.interference_by_map_.assign(value=np.nan)
    words = read_alignment_in_words(fitted)
    assert "(gradient cosine -0.50); at the last snapshot" in words


@pytest.mark.parametrize(
    "loss, sentence",
    [(2.0, "over all predicted updates is 0.5."), (0.0, "with a loss above zero is 0.5.")],
)
def test_a_difference_is_relative_to_losses_above_zero(gram, loss, sentence):
    fitted = copy.copy(gram)
    fitted.loss_curve_ = np.r_[loss, np.full(len(gram.loss_curve_) - 1, 2.0)]
    fitted.predicted_loss_curve_ = np.full(len(gram.loss_curve_), 1.0)
    assert sentence in read_gram_in_words(fitted)
    fitted.loss_curve_ = np.zeros(len(gram.loss_curve_))
    assert "largest relative difference" not in read_gram_in_words(fitted)


# ------------------------------------------------------------------- numbers are the attributes'


@pytest.mark.parametrize("quantity, word", [("rank", "rank"), ("effective_dimension", "dim.")])
@pytest.mark.parametrize("operator, label", [("K", "K"), ("P", "P"), ("PKP", "PKP*")])
def test_numbers_over_training_and_their_errors(pages, kpflow, quantity, word, operator, label):
    tables = pages["kpflow"].tables
    name = "Bottleneck: ranks" if quantity == "rank" else "Effective dimensions"
    table = tables[f"{name} on the time axis"]
    rows = select(kpflow.results_, operator, quantity, "time")
    assert table.column("iteration") == list(rows.index)
    assert table.column(f"{word} {label}") == list(rows["value"])
    assert table.column(f"s.e. of {word} {label}") == list(rows["std_error"])
    assert rows["std_error"].gt(0).any() or quantity == "rank"
    shown = [float(text) for text in table.words(f"{word} {label}")]
    np.testing.assert_allclose(shown, rows["value"], rtol=5e-4)


@pytest.mark.parametrize(
    ("method", "error", "quantity", "words"),
    [("exact", 0.0, "rank", "exact"), ("randomized", 0.0, "rank", "bracketed"),
     ("randomized", 0.0, "norm", "0"), ("randomized", 0.512, "rank", "0.51")],
)  # fmt: skip
def test_an_error_of_zero_says_why(method, error, quantity, words):
    row = pd.Series({"value": 3.0, "std_error": error, "method": method})
    assert error_cell(row, quantity).text == words


def test_verdict_loss_and_agreement_are_the_tables(pages, kpflow):
    table = pages["kpflow"].tables["Bottleneck: ranks on the time axis"]
    assert table.words("narrower") == list(kpflow.bottleneck_["narrower"])
    assert table.column("ratio") == list(kpflow.bottleneck_["ratio"])
    assert table.column("loss") == list(select(kpflow.results_, "network", "loss")["value"])
    flow = pages["kpflow"].tables["Effective dimensions on the time axis"]
    agreement = select(kpflow.results_, "PKP", "flow_agreement")["value"]
    assert flow.column("flow agreement") == [*agreement.iloc[:-1], None]
    assert flow.words("flow agreement")[-1] == "–"
    assert (
        "Missing in flow agreement: the update made from this snapshot is unknown"
        in pages["kpflow"].text
    )


def test_axes_of_the_last_snapshot(pages, kpflow):
    table = pages["kpflow"].tables["Operators by axis"]
    at_last = kpflow.results_[kpflow.results_["iteration"] == 6]
    assert len(table.texts) == 9
    for place, (label, axis, *_) in enumerate(table.texts):
        for quantity in ("rank", "effective_dimension", "trace", "norm"):
            row = select(at_last, label.removesuffix("*"), quantity, axis).iloc[0]
            name = quantity.replace("_", " ")
            assert table.column(name)[place] == row["value"]
            assert table.column(f"s.e. of {name}")[place] == row["std_error"]


def test_maps_signals_and_exponents(pages, kpflow):
    tables = pages["kpflow"].tables
    maps = tables["Weight maps at iteration 6"]
    for column in kpflow.weight_maps_.columns[1:]:
        assert maps.column(column.replace("_", " ")) == list(kpflow.weight_maps_[column])
    for column in kpflow.signal_dimensions_:
        shown = tables["Dimensions of signals"].column(column)
        assert shown == list(kpflow.signal_dimensions_[column])
    exponents = tables["Exponents"]
    assert exponents.column("exponent") == list(kpflow.lyapunov_exponents_)
    assert exponents.column("s.e. of exponent") == list(kpflow.lyapunov_std_error_)
    assert f"dimension {kpflow.kaplan_yorke_dimension_:.4g}" in pages["kpflow"].text


def test_matrices_groups_and_interference(pages, alignment):
    tables = pages["alignment"].tables
    for kind, matrix in alignment.alignment_matrices_.items():
        table = tables[kind.capitalize()]
        assert table.headings[1:] == list(alignment.tasks_) == table.words("i \\ j")
        assert [row[1:] for row in table.values] == matrix.to_numpy().tolist()
    groups = tables["Sub-tasks"]
    assert groups.words("task") == list(alignment.tasks_)
    assert groups.column("group") == list(alignment.groups_)
    losses = alignment.results_.query("quantity == 'loss' and iteration == 6").set_index("task")
    assert groups.column("loss at iteration 6") == list(losses["value"][alignment.tasks_])
    when = [v if v is not None else "none" for v in (alignment.transition_, alignment.lead_)]
    assert tables["When"].words("value") == list(map(str, when))
    history = tables["Groups at every snapshot"]
    assert history.words("groups") == list(alignment.grouping_history_["groups"])
    for by, whole in (
        ("weight map", alignment.interference_by_map_),
        ("period", alignment.interference_by_period_),
    ):
        table = tables[f"Interference by {by} at iteration 6"]
        total = sum(sum(v for v in row if v is not None) for row in table.values)
        at_last = whole[whole["iteration"] == 6]
        assert total == pytest.approx(at_last["value"].sum(), rel=1e-12)
    assert "State: overlap of the second moments of the states." in pages["alignment"].text
    assert "9 trials of 3 sub-tasks" in pages["alignment"].text


def test_layers_modes_and_kernel(pages, gram):
    tables = pages["gram"].tables
    layers = tables["Layers"]
    for column in gram.layer_table_:
        shown = [np.nan if v is None else v for v in layers.column(column.replace("_", " "))]
        np.testing.assert_array_equal(shown, gram.layer_table_[column])
    assert layers.words("layer") == ["1", "2"] * 3
    assert tables["Modes"].column("eigenvalue") == list(gram.mode_table_["eigenvalue"])
    rank = select(gram.results_, "K", "rank")
    assert tables["Loss and kernel K"].column("rank") == list(rank["value"])
    assert "Missing in loss change" in pages["gram"].text
    score = f"R² on the data given to this report: {gram.score(ROWS, TARGETS):.3g}"
    assert score in pages["gram"].text


def test_errors_of_estimated_weight_grams_stand_beside_them(page_of):
    X = np.random.default_rng(1).standard_normal((60, 3))
    trainer = FeedForwardTrainer((6, 5), max_iter=2, snapshots=2, random_state=0)
    analyzer = GramFlowAnalyzer(trainer, gram_pairs=200, random_state=0).fit(X, X[:, 0])
    table = page_of(analyzer).tables["Layers"]
    rows = select(analyzer.results_, "K_2", "gram_norm")
    assert (rows["std_error"] > 0).all()
    shown = [v for v in table.column("s.e. of gram norm") if v is not None]
    assert shown == list(rows["std_error"])


# ------------------------------------------------------------------------------ what was checked


def test_identities_are_those_of_verify(pages, kpflow, alignment, gram):
    for name, checks in (
        ("kpflow", kpflow.verify(TRIALS, TRIALS.cumsum(1))),
        ("alignment", alignment.verify(TRIALS, TRIALS.cumsum(1), tasks=TASKS)),
        ("gram", gram.verify(ROWS, TARGETS)),
    ):
        table = pages[name].tables["Identities"]
        assert table.words("identity") == list(checks["identity"])
        assert table.column("error") == list(checks["error"])
        assert set(table.words("passed")) == {"yes"}
        assert f"{len(checks)} of {len(checks)} identities hold." in pages[name].text


def test_perturbations_that_all_vanish_at_once_are_said(page_of):
    """Silent units pass nothing on: all exponents are minus infinity, which no figure shows."""

    def silence(network):
        for name, p in network.named_parameters():
            p.fill_(-5.0 if "bias" in name else 0.0)

    trainer = recurrent_trainer(cell="relu", max_iter=2, snapshots=[2], constraint=silence)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # The gradient vanished.
        analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(TRIALS, TRIALS)
    assert np.isneginf(analyzer.lyapunov_exponents_).all()
    assert "All are minus infinity: every small perturbation" in page_of(analyzer).text


def test_directions_that_vanish_are_counted(page_of):
    trainer = recurrent_trainer(cell="relu", max_iter=0, snapshots=1)
    analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(TRIALS)
    dead = np.isneginf(analyzer.lyapunov_exponents_)
    assert 0 < dead.sum() < len(dead)
    assert f"{dead.sum()} of {len(dead)} are minus infinity" in page_of(analyzer).text


def test_without_trials_the_page_says_what_was_not_done(kpflow, page_of):
    page = page_of(kpflow)
    assert "Not run: the report was made without trials." in page.text
    assert "Not drawn: the report was made without trials." in page.text
    assert "Identities" not in page.tables and "R²" not in page.text


def test_failed_identities_are_said(kpflow, monkeypatch, page_of):
    bad = kpflow.verify(TRIALS, TRIALS.cumsum(1)).assign(passed=[False, *[True] * 7])
    monkeypatch.setattr(KPFlowAnalyzer, "verify", lambda *args, **options: bad)
    page = page_of(kpflow, TRIALS, TRIALS.cumsum(1))
    assert "7 of 8 identities hold. The others cast doubt" in page.text
    assert page.tables["Identities"].words("passed")[0] == "no"


# ------------------------------------------------------------------------------ text is only text


def test_hostile_text_is_shown_and_does_nothing(pages, gram, page_of):
    for name in HOSTILE:
        assert name in pages["alignment"].tables["Gradient"].headings
        assert name in pages["gram"].text
    title = "</title><script>alert(1)</script>"
    page = page_of(gram, title=title, about={"data": HOSTILE[0]})
    assert page.title == title and "script" not in page.tags
    assert HOSTILE[0] in page.tables["Versions and origin"].words("value")


def test_settings_tell_what_was_changed(pages):
    tables = pages["kpflow"].tables
    changed = {name for name, _, word in tables["KPFlowAnalyzer"].texts if word == "yes"}
    assert changed == {"method", "n_probes", "random_state"}
    values = dict(row[:2] for row in tables["RecurrentTrainer"].texts)
    assert values["hidden_size"] == "5" and values["snapshots"] == "[0, 3, 6]"


# ----------------------------------------------------------------------- whatever was analysed


class Trained(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.core = torch.nn.RNN(2, 4, batch_first=True)
        self.out = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.core(x)[0])


def test_a_module_trained_elsewhere(page_of):
    torch.manual_seed(0)
    module = Trained()
    saved = SavedTraining(module, [module.state_dict()] * 2, iterations=[10, 20])
    analyzer = KPFlowAnalyzer(saved, random_state=0).fit(TRIALS, TRIALS)
    page = page_of(analyzer, TRIALS, TRIALS)
    assert page.title == "KPFlow: Trained, trained elsewhere"
    assert "2 saved states, iterations 10 to 20" in page.text
    assert "SavedTraining" in page.tables


def test_a_sequential_trained_elsewhere(page_of):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    analyzer = GramFlowAnalyzer(module, random_state=0).fit(ROWS.to_numpy(), TARGETS)
    page = page_of(analyzer, figures=True)
    assert page.title == "Gram flow: Sequential, trained elsewhere"
    assert "one saved state, at iteration 0; evaluated by the quadratic loss" in page.text
    assert "Nothing predicts this training: " in page.text
    assert len(page.images) == 5


@pytest.mark.parametrize(
    "y, operators, words, n_figures",
    [
        (np.arange(9) % 2, ("K",), "Accuracy on the data", 0),
        (TRIALS[:, 0, 0], ("PKP",), "Not all of K, P and PKP* were measured.", 6),
    ],
)
def test_few_operators_and_classes(y, operators, words, n_figures, page_of):
    trainer = recurrent_trainer(cell="tanh", learn_initial_state=True, snapshots=[0, 6])
    options = {"operators": operators, "axes": ("time",), "random_state": 0}
    analyzer = KPFlowAnalyzer(trainer, **options).fit(TRIALS, y)
    page = page_of(analyzer, TRIALS, y, figures=n_figures > 0)
    assert words in page.text and len(page.images) == n_figures
    assert page.tables["Operators by axis"].words("s.e. of rank") == ["exact"]
    assert "K has other terms than weight maps" in page.text


def test_single_steps_and_frozen_trainers(page_of):
    with pytest.warns(UserWarning):
        trainer = recurrent_trainer().fit(TRIALS[:, 0], TRIALS[:, 0])
    analyzer = KPFlowAnalyzer(FrozenEstimator(trainer), random_state=0)
    with pytest.warns(UserWarning):
        analyzer.fit(TRIALS[:, 0], TRIALS[:, 0])
        page = page_of(analyzer, TRIALS[:, 0], TRIALS[:, 0])
    assert "Not drawn: trials of a single step" in page.text
    assert "Trials of a single step have no Lyapunov" in page.text
    assert "RecurrentTrainer" in page.tables


def test_masked_steps_are_judged_and_drawn_as_such(page_of):
    mask = np.arange(8) < np.random.default_rng(2).integers(3, 9, 9)[:, None]
    trainer = recurrent_trainer(snapshots=[6])
    analyzer = KPFlowAnalyzer(trainer, axes=("time",), random_state=0)
    analyzer.fit(TRIALS, TRIALS, mask=mask)
    padded = [np.where(mask[..., None], TRIALS, padding) for padding in (0.0, 50.0)]
    drawings = [draw_trajectories(analyzer, X, mask, None, False, "") for X in padded]
    assert drawings[0] == drawings[1] and drawings[0]["n"] == 9
    pages = [page_of(analyzer, X, TRIALS, mask=mask) for X in padded]
    assert pages[0].tables == pages[1].tables
    assert f"{analyzer.score(TRIALS, TRIALS, mask=mask):.3g}" in pages[0].text


def test_the_score_is_weighted_as_the_loss_is(page_of):
    weight = np.where(np.arange(8) < 5, 0.0, 1.0) * np.ones((9, 1))
    trainer = recurrent_trainer(snapshots=[6])
    analyzer = KPFlowAnalyzer(trainer, axes=("time",), random_state=0)
    analyzer.fit(TRIALS, TRIALS, loss_weight=weight)
    score = analyzer.score(TRIALS, TRIALS, loss_weight=weight)
    assert f"{score:.3g}" != f"{analyzer.score(TRIALS, TRIALS, loss_weight=1 + 0 * weight):.3g}"
    page = page_of(analyzer, TRIALS, TRIALS, loss_weight=weight)
    assert (
        f"R², weighted by loss_weight, on the data given to this report: {score:.3g}" in page.text
    )


def test_a_function_as_loss_is_named(page_of):
    def absolute(outputs, y):
        return (outputs - y).abs().mean(-1)

    trainer = recurrent_trainer(loss=absolute, snapshots=[6])
    analyzer = KPFlowAnalyzer(trainer, axes=("time",), random_state=0)
    analyzer.fit(TRIALS, TRIALS)
    page = page_of(analyzer, TRIALS, TRIALS)
    score = f"{analyzer.score(TRIALS, TRIALS):.3g}"
    assert f"Minus the mean of the loss absolute on the data given to this report: {score}" in (
        page.text
    )
    assert "on the loss absolute (every step)" in page.text


def test_outputs_share_their_trials_and_very_many_have_no_tables(page_of, monkeypatch):
    monkeypatch.setattr(_alignment, "_MOST_TASKS", 1)
    analyzer = TaskAlignmentAnalyzer(recurrent_trainer(), random_state=0)
    page = page_of(analyzer.fit(TRIALS, TRIALS.cumsum(1)))
    assert "9 trials of 2 sub-tasks" in page.text
    assert "The entries are in results_." in page.text and "Gradient" not in page.tables


def test_heatmaps_hold_all_their_labels(alignment):
    drawing = _alignment._heatmap(alignment, "interference")
    figure = Figure(figsize=drawing.size, layout="constrained")
    drawing.draw(figure.subplots())
    figure.draw_without_rendering()
    held = figure.get_tightbbox()
    assert min(held.x0, held.y0) >= 0
    assert held.x1 <= drawing.size[0] and held.y1 <= drawing.size[1]


def test_long_tables_keep_the_first_and_the_last_snapshot():
    frame = pd.DataFrame({"iteration": np.repeat(np.arange(1000), 3), "value": 0.5})
    table = from_frame("", frame)
    assert len(table.rows) <= 100
    assert (table.rows[0][0].value, table.rows[-1][0].value) == (0, 999)
    assert "99 of 3000 rows are shown" in table.notes[0]


@pytest.mark.parametrize(
    "value, text",
    [(3.0, "3"), (1234567.8, "1235000"), (-0.000123456, "-0.0001235"), (1.5e-7, "1.5e-07"),
     (True, "yes"), (None, "–"), (np.nan, "–"), (pd.NA, "–"), ("K", "K"), (np.inf, "inf")],
)  # fmt: skip
def test_numbers_are_written_as_a_spreadsheet_reads_them(value, text):
    assert cell(value).text == text


# ------------------------------------------------------------------------------------- the file


def test_a_report_replaces_an_earlier_one_and_does_without_matplotlib(gram, tmp_path, page_of):
    page_of(gram)
    page = page_of(gram)
    assert [p.name for p in tmp_path.iterdir()] == ["out.html"]
    assert page.images == [] and "No figures: matplotlib is not installed" in page.text
    assert "Layers" in page.tables


def disk_full(*args):
    raise OSError("disk full")


@pytest.mark.parametrize(
    "function, stand_in, message",
    [
        ("os.replace", disk_full, "disk full"),
        ("os.access", lambda *args: False, "write-protected"),  # Root may write to any file.
    ],
)
def test_a_write_that_fails_leaves_the_earlier_file(
    function, stand_in, message, tmp_path, monkeypatch
):
    path = tmp_path / "out.html"
    path.write_text("earlier")
    monkeypatch.setattr(function, stand_in)
    with pytest.raises(OSError, match=message):
        write_whole(path, "later")
    assert path.read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1


def test_an_earlier_file_keeps_its_permissions_and_links_to_it(tmp_path):
    path, link = tmp_path / "out.html", tmp_path / "link.html"
    path.write_text("earlier")
    path.chmod(0o600)
    link.symlink_to(path.name)
    write_whole(link, "later")
    assert path.read_text() == "later" and path.stat().st_mode & 0o777 == 0o600
    assert link.is_symlink() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "later")
    assert os.read(reader, 10) == b"later" and pipe.is_fifo()
    os.close(reader)


def test_the_user_s_style_of_figures_is_not_the_report_s():
    drawings = {"line": Drawing(lambda ax: ax.plot([0, 1]))}
    plain = drawn(drawings)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        assert drawn(drawings) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_too_large_figures_and_results(gram, monkeypatch, page_of):
    monkeypatch.setattr("kpflow_sklearn.reporting._pictures.MOST_BYTES", 1000)
    kind, content = content_of(drawn({"line": Drawing(lambda ax: ax.plot([0, 1]))})["line"].uri)
    assert kind == "image/png" and matplotlib.image.imread(io.BytesIO(content)).std() > 0
    monkeypatch.setattr(_report, "MOST_CSV", 1000)
    page = page_of(gram)
    assert not any(link.startswith("data:text/csv") for link in page.links)
    assert "write_results writes it to a file" in page.text


def test_unfitted_and_foreign_estimators_are_refused(gram, tmp_path):
    path = tmp_path / "out.html"
    with pytest.raises(NotFittedError, match="KPFlowAnalyzer instance is not fitted"):
        report(KPFlowAnalyzer(), path)
    with pytest.raises(TypeError, match="analyzer must be one of KPFlowAnalyzer.*got Pipeline"):
        report(make_pipeline(gram), path)
    assert not path.exists()


def test_a_missing_folder_is_named_before_anything_is_computed(gram, tmp_path, monkeypatch):
    monkeypatch.setattr(_report, "_judge", None)
    with pytest.raises(
        FileNotFoundError, match="the folder .*nowhere.* does not exist; create it"
    ):
        report(gram, tmp_path / "nowhere" / "out.html")
    with pytest.raises(ValueError, match="path must name a file, for example .* is a folder"):
        report(gram, tmp_path)


@pytest.mark.parametrize(
    "kind, data, options, message",
    [
        ("kpflow", (None, TRIALS), {}, "y was given without X"),
        ("kpflow", (), {"mask": np.ones((9, 8), bool)}, "mask was given without X"),
        ("kpflow", (TRIALS,), {}, "y is needed, got None"),
        ("kpflow", (TRIALS, TRIALS[:3]), {}, "y has 3 trials and X has 9"),
        (
            "kpflow",
            (TRIALS, TRIALS),
            {"color_by": [1, 2]},
            "color_by must have one value for each",
        ),
        (
            "kpflow",
            (TRIALS, TRIALS),
            {"color_by": [1, 2], "tasks": [1]},  # The same error for every seed of the hashes.
            "tasks must have one value for each",
        ),
        ("gram", (ROWS,), {}, "y is required with X"),
        ("gram", (ROWS, TARGETS), {"mask": np.ones(12)}, "mask is only for recurrent networks"),
    ],
)
def test_data_that_do_not_fit_are_refused(cases, tmp_path, kind, data, options, message):
    with pytest.raises(ValueError, match=message):
        report(cases[kind][0], tmp_path / "out.html", *data, **options)
    assert list(tmp_path.iterdir()) == []


def test_every_file_of_the_package_that_is_no_code_is_packed():
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    packed = settings["tool"]["setuptools"]["package-data"]["kpflow_sklearn"]
    package = root / "kpflow_sklearn"
    others = [p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert sorted(others) == sorted(path for pattern in packed for path in package.glob(pattern))


def test_weak_agreement_is_said_with_its_iterations():
    rows = [
        row(i, "PKP", "all", "flow_agreement", value, n_trials=1)
        for i, value in ((0, 0.9), (10, 0.1), (30, -0.2))
    ]
    loss = {"start": 0, "end": 30, "first": 1.0, "last": 1.0}
    facts = {"loss": loss, "n_ranks": 0, "narrower": {}, "verdicts": [], "states": []}

    words = say("kpflow.txt", agreement=_agreement(to_frame(rows)), **facts)
    assert "from -0.20 to +0.90" in words and "below 0.3 at iteration 10, 30" in words
    words = say("kpflow.txt", agreement=_agreement(to_frame(rows[:1])), **facts)
    assert "next update is +0.90." in words and "below" not in words
