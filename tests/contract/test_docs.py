"""The targets of the documentation exist, and its link checker finds missing ones."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch

import kpflow_sklearn
from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, SavedTraining
from kpflow_sklearn.datasets import make_memory_pro

ROOT = Path(__file__).parents[2]
BUILT = {"_build", "auto_examples", "generated"}
PAGES = [
    *(p for p in sorted(ROOT.joinpath("docs").rglob("*.md")) if BUILT.isdisjoint(p.parts)),
    *ROOT.glob("*.md"),
]
POINTER = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@cache
def names_in(path: str) -> set[str]:
    """Return the names of the tests and test classes of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tests_that_pages_name_exist(page):
    for file, name in POINTER.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / file).exists(), f"{page.name} names {file}"
        assert not name or name in names_in(file), f"{page.name} names {file}::{name}"


def test_every_formula_of_the_theory_notes_is_followed_by_its_test():
    text = (ROOT / "docs/theory/notes.md").read_text(encoding="utf-8")
    after = re.split(r"\$\$[^$]+\$\$", text)[1:]
    assert len(after) > 15
    unchecked = []
    for k, words in enumerate(after):
        # Formulas in a row share the test that follows the last of them.
        together = len(words.strip()) == 0
        if not together and not POINTER.search(words.split("\n## ")[0]):
            unchecked.append(f"formula {k + 1}, before: {words.strip()[:60]}")
    assert not unchecked


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs/reference/api.rst").read_text()
    listed = set(re.findall(r"^   (\w+)$", reference, flags=re.M))
    for module in ("", ".datasets", ".operators", ".spectra", ".plotting"):
        assert set(importlib.import_module(f"kpflow_sklearn{module}").__all__) <= listed
    assert kpflow_sklearn.__version__ in (ROOT / "CITATION.cff").read_text()


def load(path: str):
    """Import a script of the documentation, which is not a package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_pages_is_python(page):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        compile(block, page.name, "exec")


def test_the_questions_to_tables_have_answers(capsys):
    X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
    trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    scope = {"analyzer": KPFlowAnalyzer(trainer, random_state=0).fit(X, y)}
    text = (ROOT / "docs/howto/tables.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", text, flags=re.S)[0], scope)
    assert scope["wide"].index.tolist() == [0, 2] and scope["wide"].notna().all().all()
    assert "PKP" in capsys.readouterr().out


def test_the_search_with_a_mask_scores_valid_steps_alone():
    text = (ROOT / "docs/howto/trials.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    scope: dict = {}
    with sklearn.config_context():
        exec(next(block for block in blocks if "GridSearchCV" in block), scope)
        search, X, y, mask = (scope[name] for name in ("search", "X", "y", "mask"))
        given = {"mask": mask}
        best = search.best_estimator_
        score = best[-1].score(best[0].transform(X, **given), y, **given)
        assert search.score(X, y, **given) == pytest.approx(score)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def blocks_of_own_network() -> list[str]:
    """Return the blocks of Python code on the page about any trained network."""
    text = (ROOT / "docs/howto/own_network.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


def test_the_network_with_an_encoder_is_analysed_as_the_page_says():
    blocks = blocks_of_own_network()
    scope: dict = {}
    exec(next(block for block in blocks if "class ConvGRU" in block), scope)
    assert scope["analyzer"].verify(scope["X"], scope["y"])["passed"].all()
    assert scope["flow"].shape == (8, 12, 16)


def test_outputs_that_depend_on_the_input_are_analysed_as_the_page_says():
    blocks = blocks_of_own_network()
    scope: dict = {}
    exec(next(block for block in blocks if "class Skip" in block), scope)
    flow = scope["flow"]
    assert (flow[..., 8:] == 0).all() and (flow[..., :8] != 0).any()


def test_networks_that_pool_over_time_are_analysed_as_the_page_says():
    blocks = blocks_of_own_network()
    scope: dict = {}
    exec(next(block for block in blocks if "class Pooled" in block), scope)
    by_step = scope["flow"]
    exec(next(block for block in blocks if "pooled_cross_entropy" in block), scope)
    # Both ways describe the same training, which changes the states in the same way.
    torch.testing.assert_close(by_step[..., 8:], scope["flow"])
    outputs = scope["net"](torch.as_tensor(scope["X"]).float())
    loss = torch.nn.functional.cross_entropy(outputs.detach(), torch.as_tensor(scope["y"]))
    assert -scope["pooled"].score(scope["X"], scope["y"]) == pytest.approx(float(loss))


def test_initial_states_of_single_trials_are_analysed_as_the_page_says():
    blocks = blocks_of_own_network()

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = torch.nn.GRUCell(3, 8), torch.nn.Linear(8, 2)

        def forward(self, x, h):
            return self.out(torch.stack([h := self.cell(x_t, h) for x_t in x.unbind(1)], 1))

    rng = np.random.default_rng(0)
    scope = {"torch": torch, "np": np, "SavedTraining": SavedTraining, "net": Net()}
    scope |= {"X": rng.standard_normal((4, 5, 3)), "starts": rng.standard_normal((4, 8))}
    x, starts = (torch.as_tensor(scope[name]).float() for name in ("X", "starts"))
    exec(next(block for block in blocks if "class Joined" in block), scope)
    saved = scope["saved"].fit(scope["X"], rng.standard_normal((4, 5, 2)))
    expected = scope["net"](x, starts).detach()
    np.testing.assert_allclose(saved.predict(scope["X"]), expected, atol=1e-6)


@pytest.mark.parametrize("page", ["trainers", "own_network"])
def test_functions_as_loss_are_analysed_as_the_pages_say(page):
    text = (ROOT / f"docs/howto/{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    scope: dict = {}
    exec(next(block for block in blocks if "binary_cross_entropy" in block), scope)
    analyzer, X, bits = (scope[name] for name in ("analyzer", "X", "bits"))
    assert analyzer.network_.n_outputs == 1 and analyzer.verify(X, bits)["passed"].all()
    logits = analyzer.predict(X)[..., 0]
    loss = np.logaddexp(0, logits) - bits * logits
    assert analyzer.score(X, bits) == pytest.approx(-loss.mean())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_subscripts_on_pages_are_formulas_or_code(page):
    # Markdown reads an underscore after a bracket as emphasis: (Pq)_t ... (Pq)_{t-1}.
    text = page.read_text(encoding="utf-8")
    words = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$", "", text, flags=re.S)
    assert re.findall(r"[^\n]*[)\]}]_[^\n]*|[^\n]*_\{[^\n]*", words) == []


@pytest.mark.parametrize(
    "line, escaped",
    [
        ("P* Err and |x|^2 of n_iter_", r"P\* Err and \|x\|^2 of n_iter\_"),
        ("``a * b_`` and `c_`, d_e", "``a * b_`` and `c_`, d_e"),
        ("n_iter_ : ndarray of shape (k_,)", r"n_iter_ : ndarray of shape (k\_,)"),
    ],
)
def test_formulas_in_docstrings_are_escaped(line, escaped):
    assert load("docs/extensions/docstrings.py").escape(line) == escaped


def test_examples_in_docstrings_are_left_alone():
    lines = ["K* is", "", ">>> x = 2 * y_", "z_ * 2", "", "K*"]
    load("docs/extensions/docstrings.py").escape_text(None, "", "", None, None, lines)
    assert lines == [r"K\* is", "", ">>> x = 2 * y_", "z_ * 2", "", r"K\*"]


def test_broken_links_are_found(tmp_path):
    checker = load("docs/check_links.py")
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A</h1><a href="sub/b.html#there">b</a><a href="#top">up</a>'
        '<a href="https://example.org/x">far</a><a href="c%20d.txt">file</a>'
    )
    (tmp_path / "c d.txt").write_text("")
    (tmp_path / "sub/b.html").write_text('<p id="there"><img src="../c d.txt">')
    assert checker.broken_links(tmp_path) == []
    (tmp_path / "sub/b.html").write_text('<a href="../index.html#gone">a</a><img src="no.png">')
    assert checker.broken_links(tmp_path) == [
        "index.html: sub/b.html#there",
        "sub/b.html: ../index.html#gone",
        "sub/b.html: no.png",
    ]
