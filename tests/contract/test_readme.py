"""The README: its two commands, the files that it links, and its code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_exactly_two_one_line_commands_that_make_their_own_environment():
    commands = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    assert len(commands) == 2
    for command in commands:
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
    assert commands[0].strip().endswith("-m kpflow_sklearn")
    assert commands[1].strip().endswith("-m pytest -n auto")


def test_linked_files_exist():
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_python_example_runs():
    example = re.findall(r"```python\n(.*?)```", README, flags=re.S)[0]
    short = "(4, stimulus=3, memory=3, response=3"
    small = example
    for old, new in (("(256", short), ("=64", "=4, max_iter=2, snapshots=2")):
        assert old in small
        small = small.replace(old, new)
    scope: dict = {}
    exec(small, scope)
    assert scope["analyzer"].verify(scope["X"], scope["y"])["passed"].all()


def test_the_other_python_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    chosen = [block for block in blocks if "make_multitask" in block or "Gram" in block]
    assert len(chosen) == 2
    start = "from kpflow_sklearn import RecurrentTrainer\n"
    start += "trainer = RecurrentTrainer(hidden_size=4, max_iter=4, snapshots=2)\n"
    scope: dict = {}
    small = "".join(chosen).replace("make_multitask(32", "make_multitask(4")
    exec(start + small.replace("(64, 64)", "(4, 4), max_iter=4, snapshots=2"), scope)
    assert scope["alignment"].alignment_matrices_["flow"].shape == (4, 4)
    assert scope["gram"].layer_table_.notna().any().any()
