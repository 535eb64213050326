"""Check that every link within a built site leads to an existing file and anchor.

    python docs/check_links.py docs/_build/html

External links are not checked.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and the anchors to which other pages can link."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the links and the anchors of a tag."""
        given = dict(attrs)
        self.links += [link for key in ("href", "src") if (link := given.get(key))]
        self.anchors |= {name for key in ("id", "name") if (name := given.get(key))}


def broken_links(site: Path) -> list[str]:
    """Return the links within a site that are broken, as "page: link"."""
    files = (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    pages = {path.resolve(): Page(path) for path in files}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            exists = target.exists()
            if exists and parts.fragment and target in pages:
                exists = unquote(parts.fragment) in pages[target].anchors
            if not exists:
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "index.html").exists():
        sys.exit("usage: python docs/check_links.py FOLDER, where FOLDER holds a built site")
    broken = broken_links(Path(sys.argv[1]))
    sys.exit("\n".join(["broken links:", *broken]) if broken else 0)
