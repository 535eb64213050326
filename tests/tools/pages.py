"""The content of a report: its HTML, parsed by the standard library."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img"}


@dataclass
class FoundTable:
    """A table: headings, texts and full numbers (None for cells without one), row by row."""

    headings: list[str] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)
    values: list[list[float | None]] = field(default_factory=list)

    def column(self, heading):
        """Return the full numbers of a column."""
        place = self.headings.index(heading)
        return [row[place] for row in self.values]

    def words(self, heading):
        """Return the texts of a column."""
        place = self.headings.index(heading)
        return [row[place] for row in self.texts]


class FoundPage(HTMLParser):
    """A page: its tags, texts, tables by name and images."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.links, self.ids, self.images = [], [], [], [], []
        self.texts, self.tables, self.title = [], {}, ""
        self._table = None
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    @property
    def text(self):
        """All text outside of style, in one line."""
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        assert not any(name.startswith("on") for name in attributes)
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(attributes["aria-label"], FoundTable())
        elif tag == "tr" and "tbody" in self.open:
            self._table.texts.append([])
            self._table.values.append([])
        elif tag == "th":
            self._table.headings.append("")
        elif tag == "td":
            self._table.texts[-1].append("")
            self._table.values[-1].append(None)
        elif tag == "data":
            self._table.values[-1][-1] = float(attributes["value"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.texts.append(data)
        if "title" in self.open:
            self.title += data
        elif "th" in self.open:
            self._table.headings[-1] += data
        elif "td" in self.open:
            self._table.texts[-1][-1] += data


def content_of(uri):
    """Return the kind and the bytes that a data URI holds."""
    kind, _, content = uri.removeprefix("data:").partition(";base64,")
    return kind, base64.b64decode(content, validate=True)
