"""The page "Coming from ...": its code runs, prints what it says, and analyses that network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs/howto/coming_from.md"
START, *SECTIONS = re.split(r"(?m)^##+ ", PAGE.read_text(encoding="utf-8"))
SECTIONS = {section.splitlines()[0]: section for section in SECTIONS}
FAST = "A plain RNN, GRU or LSTM"
NEED_NET = (  # The sections that use the network of the first one.
    "Outputs in a dataclass, as from Hugging Face", "Packed sequences", "skorch", "Lightning"
)  # fmt: skip
NEEDS = {"nn4n": "nn4n", "NeuroGym": "neurogym", "skorch": "skorch"}


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def assert_same_words(printed: str, expected: str) -> None:
    """Compare two texts word by word, numbers to two per cent."""
    for ours, theirs in zip(printed.split(), expected.split(), strict=True):
        try:
            number = float(theirs)
        except ValueError:
            assert ours == theirs
        else:
            assert float(ours) == pytest.approx(number, rel=0.02)


@pytest.mark.filterwarnings("default")  # The other packages have warnings of their own.
@pytest.mark.parametrize(
    "title", [pytest.param(t, marks=() if t == FAST else pytest.mark.slow) for t in SECTIONS]
)
def test_a_section_runs_and_prints_its_numbers(title, capsys):
    if title in NEEDS:
        pytest.importorskip(NEEDS[title])
    code = blocks(SECTIONS[title])
    first = blocks(SECTIONS[FAST])[:1] if title in NEED_NET else []
    scope: dict = {}
    with torch.random.fork_rng():
        for block in [*blocks(START), *first, *code]:
            exec(block, scope)
    if code:
        (expected,) = blocks(SECTIONS[title], "text")
        assert_same_words(capsys.readouterr().out, expected)
    if "net" in scope:
        inputs, steps_first = scope["inputs"], title == "nn4n"
        outputs = scope["net"](inputs.swapaxes(0, 1) if steps_first else inputs)
        outputs = outputs[0].swapaxes(0, 1) if steps_first else outputs
        outputs = getattr(outputs, "logits", outputs)
        predicted = scope["analyzer"].predict(scope["X"])
        np.testing.assert_allclose(predicted, outputs.detach().numpy(), atol=1e-5)


def test_blocks_have_fewer_than_15_lines():
    for title, section in SECTIONS.items():
        for block in blocks(section):
            assert block.count("\n") < 15, title
