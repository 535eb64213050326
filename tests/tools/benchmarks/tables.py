"""Tables: aligned on the screen, markdown in a file."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch


@dataclass
class Table:
    """A titled table of strings, with remarks below it."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, *entries: object) -> None:
        """Append a row; numbers get three digits, None is left empty."""
        self.rows.append(tuple(_entry(v) for v in entries))

    def text(self) -> str:
        """Return the table aligned, text to the left and numbers to the right."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        numeric = [all(_is_number(v) for v in c) for c in zip(*self.rows, strict=True)]
        out = [self.title, "-" * len(self.title)]
        for line in lines:
            cells = zip(line, widths, numeric or [False] * len(widths), strict=True)
            out.append("  ".join(v.rjust(w) if n else v.ljust(w) for v, w, n in cells).rstrip())
        return "\n".join([*out, *self.remarks, ""])

    def markdown(self) -> str:
        """Return the table in markdown."""
        head = ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        body = ["| " + " | ".join(v.replace("|", "\\|") for v in row) + " |" for row in self.rows]
        remarks = [f"\n{remark}" for remark in self.remarks]
        return "\n".join([f"## {self.title}", "", *head, *body, *remarks, ""])


class Report:
    """Print tables as they are finished, and keep a markdown file of them up to date."""

    def __init__(self, output: str | None, command: str) -> None:
        self.output, self.tables = output, []
        self.header = [f"`{command}`", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")]
        self.header.append(machine())
        print("\n".join(self.header), end="\n\n", flush=True)

    def add(self, table: Table) -> None:
        """Print a finished table and write it."""
        self.tables.append(table.markdown())
        print(table.text(), flush=True)
        if self.output is not None:
            text = "\n\n".join(["# Benchmarks", *self.header, *self.tables])
            Path(self.output).write_text(text, encoding="utf-8")


def machine() -> str:
    """Return platform, processor, cores and torch version in words."""
    model = platform.processor() or "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":")[1] for x in info.read_text().splitlines() if "model name" in x]
        model = names[0].strip() if names else model
    return (
        f"{platform.platform()}, {model}, {os.cpu_count()} cores, torch {torch.__version__} "
        f"with {torch.get_num_threads()} threads, Python {platform.python_version()}, float32"
    )


def _entry(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text.split(" ")[0] or 0)
    except ValueError:
        return False
    return True
