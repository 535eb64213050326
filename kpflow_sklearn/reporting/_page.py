"""One page of HTML that needs nothing else: what it consists of, and how it is put together."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from jinja2 import Environment, StrictUndefined


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and the number in full where it is one."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with a name above it and remarks below."""

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    folded: bool = False  #: Shown on demand only.

    @cached_property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        places = range(len(self.headings))
        return [any(row[k].value is not None for row in self.rows) for k in places]


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, its size in CSS pixels, and what it shows in words."""

    uri: str
    width: int
    height: int
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading, what to know, figures and tables."""

    title: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()

    @property
    def anchor(self) -> str:
        """What links on the page call it."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    facts: Sequence[str]
    reading: str
    sections: Sequence[Section]
    software: str
    written: str
    results: str  #: A CSV file as a data URI; empty if it is too large for a page.


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def render(page: Page) -> str:
    """Return a page as HTML; all text is escaped."""
    source = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(page=page) + "\n"
