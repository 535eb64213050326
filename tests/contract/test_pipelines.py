"""Analyzers in scikit-learn's pipelines, searches and tables."""

from __future__ import annotations

import pickle
import warnings
from email.message import Message

import joblib
import numpy as np
import pandas as pd
import polars
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn._common import estimators as _estimator
from kpflow_sklearn.preprocessing import SequenceScaler, SequenceVectorizer
from kpflow_sklearn.results import Estimate, bottleneck_table, row, to_frame

rng = np.random.default_rng(0)
LABELS = np.array(["left", "right", "up"] * 8)
X = rng.standard_normal((24, 6, 2)) + np.linspace(0, 2, 6)[:, None]
X += np.array([[-1.0, 0], [1, 0], [0, 1]] * 8)[:, None]
Y = X.cumsum(1)
TRAINER = RecurrentTrainer(
    hidden_size=5, max_iter=15, snapshots=1, learning_rate=0.05, random_state=0
)


#: Small analyses: what is measured does not matter to scikit-learn.
FEW = {"operators": ("PKP",), "axes": ("time",), "analyses": ("modes",), "random_state": 0}


def pipeline() -> Pipeline:
    analyzer = KPFlowAnalyzer(clone(TRAINER), n_components=3, **FEW)
    return make_pipeline(SequenceScaler(), analyzer, LogisticRegression())


def test_a_pipeline_trains_clones_and_pickles(tmp_path):
    fitted = pipeline().fit(X, LABELS)
    assert fitted.score(X, LABELS) > 0.7
    joblib.dump(fitted, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    for copy in (clone(fitted).fit(X, LABELS), pickle.loads(pickle.dumps(fitted)), loaded):
        pd.testing.assert_frame_equal(copy[1].results_, fitted[1].results_)
        np.testing.assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))


def test_a_baseline_without_a_network():
    baseline = make_pipeline(SequenceScaler(), SequenceVectorizer(), LogisticRegression())
    assert baseline.fit(X, LABELS).score(X, LABELS) > 0.7
    assert baseline[:-1].get_feature_names_out().tolist()[:2] == ["x0_t0", "x1_t0"]


def test_a_pipeline_of_tables():
    fitted = pipeline().set_output(transform="pandas").fit(X, LABELS)
    names = [f"kpflowanalyzer{i}" for i in range(3)]
    assert list(fitted[:-1].transform(X)) == names
    assert fitted[-1].feature_names_in_.tolist() == names
    assert isinstance(pipeline().set_output(transform="polars")[:-1].fit_transform(X, LABELS),
                      polars.DataFrame)  # fmt: skip


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_grid_search_reaches_the_trainer_and_leaves_threads_alone(n_jobs):
    before = torch.get_num_threads()
    grid = {"kpflowanalyzer__trainer__init_scale": [0.5, 1.5]}
    options = {"cv": StratifiedKFold(2), "error_score": "raise"}
    search = GridSearchCV(pipeline(), grid, n_jobs=n_jobs, **options).fit(X, LABELS)
    folds = [
        cross_val_score(clone(pipeline()).set_params(**setting), X, LABELS, cv=options["cv"])
        for setting in search.cv_results_["params"]
    ]
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], np.mean(folds, axis=1))
    best = search.best_estimator_[1]
    assert best.trainer_.init_scale == search.best_params_["kpflowanalyzer__trainer__init_scale"]
    assert torch.get_num_threads() == before
    # The network of the search is analysed on another axis without training it again.
    options = FEW | {"axes": ("trial",)}
    frozen = KPFlowAnalyzer(FrozenEstimator(best.trainer_), **options)
    scaled = search.best_estimator_[0].transform(X)
    np.testing.assert_array_equal(frozen.fit(scaled, LABELS).predict(scaled), best.predict(scaled))


def test_folds_stratified_by_task():
    tasks = np.repeat([0, 1], 12)
    analyzer = KPFlowAnalyzer(clone(TRAINER), **FEW)
    scores = [
        analyzer.fit(X[a], Y[a], tasks=tasks[a]).score(X[b], Y[b])
        for a, b in StratifiedKFold(3, shuffle=True, random_state=0).split(X, tasks)
    ]
    assert np.isfinite(scores).all()
    # Targets of every step need a score of their own: by default, that of the estimator.
    assert np.isfinite(cross_val_score(analyzer, X, Y, cv=3)).all()


def test_a_scorer_for_targets_of_every_step():
    def mean_squared(y_true, y_pred):
        return float(((y_true - y_pred) ** 2).mean())

    scorer = make_scorer(mean_squared, greater_is_better=False)
    assert (cross_val_score(clone(TRAINER), X, Y, cv=3, scoring=scorer) < 0).all()


@pytest.mark.parametrize("routing", [True, False])
def test_masks_and_tasks_are_arguments_of_fit_only(routing):
    with sklearn.config_context(enable_metadata_routing=routing):
        analyzer = TaskAlignmentAnalyzer(clone(TRAINER), random_state=0)
        assert analyzer.fit(X, Y, tasks=LABELS).transform(X).shape == (24, 3)
        with pytest.raises(TypeError):
            analyzer.transform(X, tasks=LABELS)
        if routing:
            steps = Pipeline([("scale", SequenceScaler()), ("align", analyzer)])
            steps["align"].set_fit_request(tasks=True)
            assert steps.fit(X, Y, tasks=LABELS)["align"].tasks_.tolist() == sorted(set(LABELS))


MASK = np.arange(6) < np.resize([3, 6, 4, 5], 24)[:, None]
PADDED = X * MASK[..., None]
GRACE = np.where(np.arange(6) < 2, 0.0, np.resize([1, 2, 3], 24)[:, None])
ROUTED = {
    "set_fit_request": {"mask": True, "loss_weight": True},
    "set_score_request": {"mask": True, "loss_weight": True},
}


def routed(estimator):
    """Return a clone that requests the mask and weights for fit and score."""
    estimator = clone(estimator)
    for method, names in ROUTED.items():
        getattr(estimator, method)(**names)
    return estimator


def scores_by_hand(model, given, folds) -> list[float]:
    """Return the scores of folds that are fitted and scored with mask and weights."""
    scores = []
    for a, b in folds:
        fitted = clone(model).fit(PADDED[a], Y[a], **{name: v[a] for name, v in given.items()})
        scores.append(fitted.score(PADDED[b], Y[b], **{name: v[b] for name, v in given.items()}))
    return scores


@pytest.mark.parametrize("in_pipeline", [False, True], ids=["alone", "pipeline"])
@pytest.mark.parametrize("kind", ["trainer", "analyzer"])
def test_searches_score_by_the_mask_and_weights_that_they_route(kind, in_pipeline):
    if in_pipeline and sklearn.__version__.startswith(("1.6.", "1.7.", "1.8.")):
        pytest.skip("scikit-learn 1.6 routes nothing to the score of a pipeline in a search")
    short = clone(TRAINER).set_params(max_iter=3)
    model = short if kind == "trainer" else KPFlowAnalyzer(short, **FEW | {"operators": ("K",)})
    given = {"mask": MASK, "loss_weight": GRACE}
    folds = list(KFold(2).split(X))
    expected = scores_by_hand(model, given, folds)
    with sklearn.config_context(enable_metadata_routing=True):
        searched = routed(model)
        if in_pipeline:  # Pipeline.score passes sample_weight=None to its last step.
            scaler = SequenceScaler(with_mean=False, with_std=False)
            scaler.set_fit_request(mask=True).set_transform_request(mask=True)
            searched = make_pipeline(scaler, searched)
        options = {"cv": folds, "params": given, "error_score": "raise"}
        scores = cross_val_score(searched, PADDED, Y, **options)
    np.testing.assert_allclose(scores, expected)


MASKED = {
    "trainer": clone(TRAINER).set_params(max_iter=2),
    "analyzer": KPFlowAnalyzer(clone(TRAINER).set_params(max_iter=2), **FEW),
    "alignment": TaskAlignmentAnalyzer(clone(TRAINER).set_params(max_iter=2), random_state=0),
    "scaler": SequenceScaler(),
    "vectorizer": SequenceVectorizer(),
}


@pytest.mark.parametrize("kind", MASKED)
def test_a_forgotten_mask_is_warned_of(kind):
    fitted = clone(MASKED[kind]).fit(PADDED, Y, mask=MASK)
    methods = [m for m in ("predict", "transform", "trajectories", "score") if hasattr(fitted, m)]
    for method in methods:
        given = (Y,) if method == "score" else ()
        with pytest.warns(UserWarning, match="fit was given a mask.*set_fit_request") as caught:
            getattr(fitted, method)(PADDED, *given)
        assert [w.filename for w in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            getattr(fitted, method)(PADDED, *given, mask=MASK)
            if method != "score":  # These trials do not end in constant steps.
                getattr(fitted, method)(X)
    if "score" in methods:
        with pytest.warns(UserWarning, match="fit was given a mask"):
            fitted.score(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.fit(PADDED, Y)
        for method in methods:
            getattr(fitted, method)(PADDED, *((Y,) if method == "score" else ()))


TARGETS = {
    "values": (Y, GRACE, np.ones_like(GRACE)),
    "next input": (None, GRACE, np.where(np.arange(6) < 5, GRACE + 1, 0)),
    "labels": (LABELS, np.where(np.arange(24) < 9, 0, GRACE.T).T, GRACE),
}


@pytest.mark.parametrize("name", TARGETS)
def test_forgotten_weights_are_warned_of_if_they_leave_targets_out(name):
    y, with_gaps, without_gaps = TARGETS[name]
    trainer = clone(TRAINER).set_params(max_iter=2).fit(X, y, loss_weight=with_gaps)
    with pytest.warns(UserWarning, match="loss_weight given to fit was zero.*set_score_request"):
        trainer.score(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.score(X, y, loss_weight=with_gaps)
        trainer.fit(X, y, loss_weight=without_gaps).score(X, y)


def test_sample_weight_is_refused_by_name():
    trainer = clone(TRAINER).set_params(max_iter=2).fit(X, Y)
    assert trainer.score(X, Y, sample_weight=None) == trainer.score(X, Y)
    with pytest.raises(ValueError, match="sample_weight must be None, .* give loss_weight"):
        trainer.score(X, Y, sample_weight=np.ones(24))


# ------------------------------------------- checks that scikit-learn's suite leaves out

SHORT = RecurrentTrainer(hidden_size=3, max_iter=1, snapshots=1)
TRANSFORMERS = {
    "kpflow": KPFlowAnalyzer(
        SHORT, n_components=3, operators=("PKP",), axes=("time",), analyses=("modes",)
    ),
    "alignment": TaskAlignmentAnalyzer(SHORT),
    "gram": GramFlowAnalyzer(FeedForwardTrainer((3,), max_iter=1, snapshots=1), n_components=2),
    "vectorizer": SequenceVectorizer(),
}
OUTPUT_CHECKS = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]


# The checks fit on tables and transform arrays; scikit-learn warns of that.
@pytest.mark.filterwarnings("ignore:X of shape", "ignore:there is only one sub-task")
@pytest.mark.filterwarnings("ignore:X does not have valid", "ignore:X has feature names")
@pytest.mark.parametrize("check", OUTPUT_CHECKS)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_tables_out(name, check):
    estimator = clone(TRANSFORMERS[name])
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@pytest.mark.parametrize("name", ["kpflow", "alignment", "gram"])
def test_the_html_repr_is_cheap_and_complete(name, monkeypatch):
    estimator = clone(TRANSFORMERS[name])
    rows, y = (X[:, 0], X[:, 0]) if name == "gram" else (X, Y)
    estimator.fit(rows, y)
    monkeypatch.setattr(torch, "matmul", lambda *a, **k: pytest.fail("the repr computes"))
    html = estimator._repr_html_()
    assert type(estimator).__name__ in html


@pytest.fixture
def project_urls(monkeypatch):
    """Let the metadata of the installed package name these addresses."""

    def patch(*urls):
        about = Message()
        for url in urls:
            about["Project-URL"] = url
        monkeypatch.setattr(_estimator, "metadata", lambda name: about)
        _estimator.documentation_url.cache_clear()

    yield patch
    _estimator.documentation_url.cache_clear()


EVERY_ESTIMATOR = [*TRANSFORMERS.values(), TRAINER, FeedForwardTrainer(), SequenceScaler()]


@pytest.mark.parametrize("estimator", EVERY_ESTIMATOR, ids=lambda e: type(e).__name__)
def test_the_html_repr_links_to_the_documentation(estimator, project_urls):
    kind = type(estimator)
    where = "kpflow_sklearn" + ".preprocessing" * kind.__name__.startswith("Sequence")
    page = f"https://docs.example/reference/generated/{where}.{kind.__name__}.html"
    project_urls("Source, https://code.example", "Documentation, https://docs.example/")
    assert f'href="{page}"' in estimator._repr_html_()
    project_urls("Source, https://code.example")
    assert estimator._get_doc_link() == ""
    html = estimator._repr_html_()
    assert "docs.example" not in html and "code.example" not in html


def test_a_subclass_of_another_package_has_no_page_here(project_urls):
    project_urls("Documentation, https://docs.example")
    assert type("Adapter", (SequenceScaler,), {"__module__": "other"})()._get_doc_link() == ""


def test_tables_go_into_papers():
    options = {"axes": ("time",), "analyses": ("spectra", "weight_maps"), "random_state": 0}
    trainer = clone(TRAINER).set_params(snapshots=2)
    analyzer = KPFlowAnalyzer(trainer, **options).fit(X, Y)
    ranks = analyzer.results_.query("quantity == 'rank' and axis == 'time'")
    wide = ranks.pivot(index="iteration", columns="operator", values="value")
    assert wide.columns.tolist() == ["K", "P", "PKP"] and wide.index.tolist() == [0, 15]
    pytest.importorskip("jinja2")
    ranks = [int(value) for value in wide.loc[15]]
    assert f"15 & {ranks[0]} & {ranks[1]} & {ranks[2]} \\\\" in wide.convert_dtypes().to_latex()
    last = analyzer.bottleneck_.to_latex().splitlines()[-3].split(" & ")
    assert last[:8] == [str(n) for n in (1, 15, ranks[0], 0, ranks[1], 0, ranks[2], 0)]
    whole = analyzer.weight_maps_.filter(like="rank")
    assert ".000" not in whole.to_latex() and whole.map(float).ge(0).all(axis=None)


@pytest.mark.parametrize(
    "values, shown", [((24.0, 0.6), ("24", "0.6")), ((24.5, 0), ("24.5", "0"))]
)
def test_ranks_with_errors_keep_them_in_papers(values, shown):
    pytest.importorskip("jinja2")
    ranks = {"K": Estimate(*values), "P": Estimate(30.0), "PKP": Estimate.missing("too large")}
    rows = [row(0, name, "time", "rank", rank, n_trials=2) for name, rank in ranks.items()]
    line = bottleneck_table(to_frame(rows)).to_latex(float_format="{:g}".format).splitlines()[-3]
    assert line.split(" & ")[2:8] == [*shown, "30", "0", "NaN", "NaN"]
