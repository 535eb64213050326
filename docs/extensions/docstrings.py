"""Docstrings as they are written: plain text that may hold formulas.

P* Err, |x|^2 and n_iter_ are for people who read ``help``; reStructuredText would read a star, a
bar and a last underscore as markup.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

MARKUP = re.compile(r"[*|]|(?<=\w)_(?!\w)")
QUOTED = re.compile(r"(``.+?``|`.+?`)")
NAME = re.compile(r"^[\w, ]+ : ")  # The head of a parameter, which numpydoc reads itself.


def escape(line: str) -> str:
    """Escape what would be markup outside of backticks."""
    head = match.group() if (match := NAME.match(line)) else ""
    parts = QUOTED.split(line[len(head) :])
    parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    return head + "".join(parts)


def escape_text(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escape a docstring but for its examples, which end at an empty line."""
    example = False
    for k, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            lines[k] = escape(line)


def skip_foreign(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out what a class inherits from elsewhere: scikit-learn documents its own methods."""
    function = getattr(obj, "fget", None) or getattr(obj, "func", None) or obj
    function = getattr(function, "__func__", function)
    home = getattr(function, "__module__", None)
    return True if home is not None and not home.startswith("kpflow_sklearn") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both; escaping comes before numpydoc, whose priority is 500."""
    app.connect("autodoc-process-docstring", escape_text, priority=400)
    app.connect("autodoc-skip-member", skip_foreign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
