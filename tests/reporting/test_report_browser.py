"""The report in a browser: no error, every figure seen, no page wider than its window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    TaskAlignmentAnalyzer,
    report,
)

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--timeout=60000",
    "--dump-dom",
]  # fmt: skip
WIDTHS = (1280, 400)
HOSTILE = ["<script>console.log('ran')</script>", '"><img src=x onerror=console.log(1)>', "c" * 80]
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """Return a page as Chromium renders it, and what it wrote to its console."""
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


# Frames of the widths asked for: their pages are laid out as in windows of that size.
MEASURE = """<!doctype html><title>measure</title><body><script>
addEventListener('load', () => {
  const layouts = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    return {width: frame.contentWindow.innerWidth, page: root.scrollWidth,
      images: [...page.images].map(i => [i.naturalWidth, i.clientWidth, i.clientHeight]),
      boxes: [...page.querySelectorAll('.box')].map(b => b.getBoundingClientRect().right),
      text: parseFloat(frame.contentWindow.getComputedStyle(page.querySelector('td')).fontSize),
      scripts: page.scripts.length, tables: page.querySelectorAll('table').length};
  });
  const out = document.createElement('pre');
  out.id = 'measured'; out.textContent = JSON.stringify(layouts); document.body.append(out);
});</script>"""


def measure(pages: list[Path], folder: Path) -> list[dict]:
    """Return for each page and width what its layout came to."""
    frames = [
        f'<iframe width="{width}" height="900" style="border:0" '
        f'srcdoc="{html.escape(page.read_text("utf-8"))}"></iframe>'
        for page in pages
        for width in WIDTHS
    ]
    (folder / "measure.html").write_text(MEASURE + "".join(frames), encoding="utf-8")
    text, console = browse(folder / "measure.html", folder / "profile")
    assert console == []
    return json.loads(html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', text)[1]))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    X, rows = rng.standard_normal((9, 6, 2)), rng.standard_normal((12, 3))
    trainer = RecurrentTrainer(hidden_size=4, max_iter=4, snapshots=[0, 2, 4], random_state=0)
    layers = FeedForwardTrainer((5, 4), max_iter=4, snapshots=3, random_state=0)
    aligner = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
    fitted = [
        (KPFlowAnalyzer(trainer, axes=("time",), random_state=0).fit(X, X), X, X),
        (aligner.fit(X, X, tasks=HOSTILE * 3), X, X),
        (GramFlowAnalyzer(layers, random_state=0).fit(rows, rows[:, 0]), rows, rows[:, 0]),
    ]
    return [
        report(analyzer, folder / f"{k}.html", *data, title=f"{k} {HOSTILE[k]}")
        for k, (analyzer, *data) in enumerate(fitted)
    ]


def test_the_browser_sees_errors(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<title>t</title><script>nothing.here()</script><img src='missing.png'>")
    assert any("nothing is not defined" in line for line in browse(page, tmp_path / "profile")[1])


def test_reports_are_seen_whole_at_both_widths_and_nothing_in_them_runs(reports, tmp_path):
    layouts = measure(reports, tmp_path)
    assert [layout["width"] for layout in layouts] == list(WIDTHS) * 3
    for layout in layouts:
        assert layout["page"] <= layout["width"]
        assert layout["tables"] >= 5 and layout["text"] >= 12
        assert len(layout["images"]) >= 5
        for natural, width, height in layout["images"]:
            assert natural > 0 and 300 < width <= layout["width"]
            assert height > 200
        assert max(layout["boxes"]) <= layout["width"]
        assert layout["scripts"] == 0


@pytest.mark.slow
def test_each_report_opens_by_itself_without_a_word_on_the_console(reports, tmp_path):
    for k, page in enumerate(reports):
        text, console = browse(page, tmp_path / str(k))
        assert console == []
        assert f"{k} {html.escape(HOSTILE[k], quote=False)}</title>" in text
