"""The results table, its file format, and the bottleneck it shows."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kpflow_sklearn.reporting import read_analysis_in_words, table_of
from kpflow_sklearn.results import read_results, select, write_results
from kpflow_sklearn.results._bottleneck import bottleneck_table
from kpflow_sklearn.results._estimate import Estimate
from kpflow_sklearn.results._table import COLUMNS, SCHEMA_VERSION, provenance, row, to_frame

REASON = "the 5 computed eigenvalues hold 80.0% of the trace, below 95%"
MISSING = Estimate.missing(REASON, "randomized")


def example() -> pd.DataFrame:
    """Return a table with exact, estimated, missing, tiny and huge values."""
    rng = np.random.default_rng(0)
    rows = [
        row(0, "network", "", "loss", 0.1 + 0.2, n_trials=4),
        row(0, "K", "time", "rank", Estimate(2.0), reduction="trace", n_trials=4),
        row(0, "P", "all", "rank", MISSING, n_trials=4),
        row(10, "P", "all", "trace", Estimate(1e300, 5e-324, method="randomized"), n_trials=4),
    ]
    for i, (value, error) in enumerate(rng.standard_normal((500, 2))):
        rows.append(row(i, "PKP", "hidden", "trace", Estimate(value, abs(error)), n_trials=64))
    return to_frame(rows)


# -------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize("n_rows", [0, 1, 504])
def test_columns_and_dtypes_are_those_of_the_schema(n_rows):
    table = to_frame(example().head(n_rows).to_dict("records"))
    assert len(table) == n_rows
    assert list(table.columns) == list(COLUMNS)
    for name, dtype in COLUMNS.items():
        if dtype == "category":
            assert isinstance(table[name].dtype, pd.CategoricalDtype), name
        else:
            assert table[name].dtype == pd.Series([], dtype=dtype).dtype, name


def test_a_row_has_the_columns_of_the_schema():
    assert list(row(0, "K", "time", "rank", 2, n_trials=4)) == list(COLUMNS)


@pytest.mark.parametrize("number", [3, 3.0, np.float32(3), np.int64(3)])
def test_plain_numbers_are_exact(number):
    measured = row(7, "P", "all", "trace", number, n_trials=4)
    assert measured["value"] == 3.0 and isinstance(measured["value"], float)
    assert measured["std_error"] == 0.0
    assert measured["method"] == "exact" and measured["reason"] == ""
    assert (measured["iteration"], measured["operator"], measured["axis"]) == (7, "P", "all")


def test_an_estimate_keeps_its_error_and_method():
    measured = row(
        0,
        "P",
        "time",
        "trace",
        Estimate(2.0, 0.5, method="randomized"),
        reduction="trace",
        n_trials=9,
    )
    assert (measured["value"], measured["std_error"]) == (2.0, 0.5)
    assert (measured["method"], measured["reduction"], measured["n_trials"]) == (
        "randomized",
        "trace",
        9,
    )


def test_a_missing_estimate_keeps_its_reason():
    measured = row(0, "P", "all", "rank", MISSING, n_trials=4)
    assert np.isnan(measured["value"]) and np.isnan(measured["std_error"])
    assert measured["reason"] == MISSING.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("as_estimate", [False, True])
def test_values_that_are_not_finite_are_missing_with_a_reason(value, as_estimate):
    measured = row(0, "K", "all", "trace", Estimate(value) if as_estimate else value, n_trials=4)
    assert np.isnan(measured["value"]) and np.isnan(measured["std_error"])
    assert measured["reason"] == "not a finite number"


# -------------------------------------------------------------------------------------- select


def test_select_is_indexed_by_iteration():
    table = to_frame(
        [
            row(i, op, axis, quantity, value, n_trials=4)
            for value, (i, op, axis, quantity) in enumerate(
                [
                    (0, "K", "time", "rank"),
                    (0, "K", "all", "rank"),
                    (0, "P", "time", "rank"),
                    (0, "K", "time", "trace"),
                    (5, "K", "time", "rank"),
                ]
            )
        ]
    )
    measured = select(table, "K", "rank", "time")
    assert list(measured.columns) == ["value", "std_error", "method", "reason"]
    assert measured.index.name == "iteration"
    assert measured["value"].to_dict() == {0: 0.0, 5: 4.0}
    assert list(select(table, "K", "rank")["value"]) == [0, 1, 4]
    assert len(select(table, "PKP", "rank", "time")) == 0


# ---------------------------------------------------------------------------------------- files


def test_a_table_is_read_back_bit_by_bit(tmp_path):
    path = tmp_path / "results.csv"
    write_results(example(), path)
    pd.testing.assert_frame_equal(read_results(path), example(), check_exact=True)


def test_a_table_without_rows_is_read_back(tmp_path):
    write_results(to_frame([]), tmp_path / "results.csv")
    pd.testing.assert_frame_equal(read_results(tmp_path / "results.csv"), to_frame([]))


def test_awkward_reasons_are_read_back(tmp_path):
    reasons = ['a, "quoted" one', "# not a comment", "two\nlines", "NA", "nan"]
    rows = [row(0, "K", "all", "rank", Estimate.missing(r), n_trials=1) for r in reasons]
    write_results(to_frame(rows), tmp_path / "results.csv")
    assert list(read_results(tmp_path / "results.csv")["reason"]) == reasons


@pytest.mark.parametrize("how", [OSError("disk full"), KeyboardInterrupt()])
def test_a_table_is_written_whole_or_not_at_all(how, tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    write_results(example(), path)

    def stop(descriptor):
        raise how

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(type(how)):
        write_results(to_frame([]), path)
    assert read_results(path).equals(example())
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_says_where_it_comes_from(tmp_path):
    path = tmp_path / "results.csv"
    about = provenance(seed=3, dtype="float64", command="kpflow --cell gru: a test")
    write_results(example(), path, about)
    assert read_results(path).attrs == about
    first = path.read_text(encoding="utf-8").splitlines()[: len(about) + 1]
    assert first[:-1] == [f"# {name}: {value}" for name, value in about.items()]
    assert first[-1] == ",".join(COLUMNS)


def test_provenance_names_schema_versions_and_what_is_added():
    measured = provenance(seed=3)
    assert measured["schema_version"] == str(SCHEMA_VERSION) == "3"
    assert measured["seed"] == "3"
    for name in ("python", "kpflow-sklearn", "torch", "numpy", "scikit-learn", "pandas"):
        assert re.match(r"\d+\.\d+", measured[name]) or measured[name] == "not installed"


def test_own_provenance_does_not_make_a_file_unreadable(tmp_path):
    path = tmp_path / "results.csv"
    write_results(example(), path, {"seed": "3"})
    measured = read_results(path)
    assert measured.attrs["seed"] == "3" and measured.attrs["schema_version"] == str(
        SCHEMA_VERSION
    )


def test_provenance_of_several_lines_does_not_make_a_file_unreadable(tmp_path):
    path = tmp_path / "results.csv"
    write_results(example(), path, provenance(command="kpflow \\\n  --cell gru"))
    pd.testing.assert_frame_equal(read_results(path), example(), check_exact=True)


TABLE = example().head(2).to_csv(index=False)
FOREIGN = {
    "another table": ("a,b\n1,2\n", "has schema none and columns a, b"),
    "no provenance": (TABLE, "has schema none and columns iteration"),
    "another schema": (f"# schema_version: 99\n{TABLE}", "has schema 99 and columns iteration"),
    "another column": (
        "# schema_version: 1\n" + TABLE.replace("reason", "excuse"),
        "has schema 1 and columns .*excuse",
    ),
}


@pytest.mark.parametrize("text, message", FOREIGN.values(), ids=list(FOREIGN))
def test_foreign_files_are_refused(tmp_path, text, message):
    path = tmp_path / "foreign.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"foreign.csv is not a results table .*{message}"):
        read_results(path)


def test_an_empty_file_is_refused_by_name(tmp_path):
    path = tmp_path / "empty.csv"
    path.touch()
    with pytest.raises(ValueError, match="empty.csv is not a results table"):
        read_results(path)


# ----------------------------------------------------------------------------------- bottleneck


def ranks(*snapshots: tuple[Estimate | float, Estimate | float, Estimate | float]) -> pd.DataFrame:
    """Return a table of time-axis ranks of K, P and PKP*, ten iterations apart."""
    return to_frame(
        row(10 * i, operator, "time", "rank", rank, n_trials=4)
        for i, snapshot in enumerate(snapshots)
        for operator, rank in zip(("K", "P", "PKP"), snapshot, strict=True)
    )


VERDICTS = {
    "K is narrower": ((2, 56, 3), "K", 28.0),
    "P is narrower": ((54, 5, 5), "P", 10.8),
    "PKP as wide as the wider": ((2, 10, 10), "K", 5.0),
    "PKP exceeds both": ((8, 10, 11), "neither", 1.25),
    "PKP exceeds two that are equal": ((10, 10, 11), "neither", 1.0),
    "exactly equal": ((7, 7, 7), "undecided", 1.0),
    "equal within the error": ((Estimate(8, 1), 9, 8), "undecided", 1.125),
    "equal within both errors": ((Estimate(8, 3), Estimate(17, 4), 8), "undecided", 2.125),
    "apart by more than the errors": ((Estimate(8, 3), Estimate(18, 4), 8), "K", 2.25),
    "PKP is missing": ((2, 10, MISSING), "undecided", 5.0),
}


@pytest.mark.parametrize("snapshot, narrower, ratio", VERDICTS.values(), ids=list(VERDICTS))
def test_bottleneck(snapshot, narrower, ratio):
    measured = bottleneck_table(ranks(snapshot)).iloc[0]
    assert measured["narrower"] == narrower
    assert measured["ratio"] == pytest.approx(ratio)


@pytest.mark.parametrize("snapshot", [(MISSING, 10, 5), (2, MISSING, 2), (MISSING,) * 3])
def test_bottleneck_is_undecided_where_a_rank_is_missing(snapshot):
    measured = bottleneck_table(ranks(snapshot)).iloc[0]
    assert measured["narrower"] == "undecided" and np.isnan(measured["ratio"])


def test_bottleneck_over_training():
    measured = bottleneck_table(ranks((2, 50, 2), (6, 6, 6), (50, 5, 5)))
    numbers = [f"{name}_rank{of}" for name in ("K", "P", "PKP") for of in ("", "_std_error")]
    assert list(measured.columns) == ["iteration", *numbers, "narrower", "ratio"]
    assert list(measured["iteration"]) == [0, 10, 20]
    assert list(measured["K_rank"]) == [2, 6, 50]
    assert list(measured["P_rank"]) == [50, 6, 5]
    assert list(measured["PKP_rank"]) == [2, 6, 5]
    assert list(measured["narrower"]) == ["K", "undecided", "P"]


def test_bottleneck_gives_the_standard_errors_of_its_ranks():
    table = bottleneck_table(ranks((Estimate(8, 3), Estimate(18, 4), 8), (20, 19, MISSING)))
    assert table.loc[0, ["K_rank", "K_rank_std_error"]].tolist() == [8, 3]
    assert table.loc[0, ["P_rank", "P_rank_std_error"]].tolist() == [18, 4]
    assert table.loc[0, ["PKP_rank", "PKP_rank_std_error"]].tolist() == [8, 0]
    assert table.loc[1, ["K_rank_std_error", "P_rank_std_error"]].tolist() == [0, 0]
    assert np.isnan(table.loc[1, "PKP_rank_std_error"])


def test_errors_and_ratios_of_ranks_are_printed():
    results = pd.concat([
        to_frame(row(i, "network", "", "loss", 1.0, n_trials=4) for i in (0, 10)),
        ranks((Estimate(8, 3), 18, 8), (20, 19, 18)),
    ])  # fmt: skip
    table = bottleneck_table(results)
    printed = table_of(results, table)
    assert printed["rank K"].tolist() == ["8 ± 3", "20"]
    assert printed["narrower"].tolist() == ["K", "P"] and printed["ratio"].tolist() == [
        "2.25",
        "1.05",
    ]
    signals = pd.DataFrame({"Z": [1.0, 1.0], "PKP*Err": [1.0, 1.0]}, index=[0, 10])
    analyzer = SimpleNamespace(
        results_=results,
        bottleneck_=table,
        signal_dimensions_=signals,
        eigenfunctions_={"K": np.empty((1, 4, 30, 4))},
        rank_threshold=0.95,
    )
    words = read_analysis_in_words(analyzer)
    assert "is 8 to 20 (± 3 at most) for K, 18 to 19 for P" in words


def test_bottleneck_reads_the_time_axis_alone():
    other = ranks((50, 2, 2)).assign(axis="hidden")
    measured = bottleneck_table(pd.concat([other, ranks((2, 50, 2))], ignore_index=True))
    assert len(measured) == 1 and measured["narrower"][0] == "K"


@pytest.mark.parametrize("absent", ["K", "P", "PKP"])
def test_bottleneck_needs_all_three_operators(absent):
    table = ranks((2, 50, 2))
    measured = bottleneck_table(table[table["operator"] != absent])
    assert len(measured) == 0 and "narrower" in measured.columns
