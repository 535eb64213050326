"""Treat docstrings as plain text that may contain formulas.

Docstrings write P* Err, |x|^2 and n_iter_ so that ``help`` is easy to read. reStructuredText would
interpret the star, the bar and the trailing underscore as markup.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

MARKUP = re.compile(r"[*|]|(?<=\w)_(?!\w)")
QUOTED = re.compile(r"(``.+?``|`.+?`)")
NAME = re.compile(r"^[\w, ]+ : ")  # The name and type of a parameter, which numpydoc parses.


def escape(line: str) -> str:
    """Escape characters outside of backticks that would be markup."""
    head = match.group() if (match := NAME.match(line)) else ""
    parts = QUOTED.split(line[len(head) :])
    parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    return head + "".join(parts)


def escape_text(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escape a docstring, except for its examples, which end at an empty line."""
    example = False
    for k, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            lines[k] = escape(line)


def skip_foreign(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Skip members that are inherited from other packages, which document them."""
    function = getattr(obj, "fget", None) or getattr(obj, "func", None) or obj
    function = getattr(function, "__func__", function)
    home = getattr(function, "__module__", None)
    return True if home is not None and not home.startswith("kpflow_sklearn") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both functions. Escaping runs before numpydoc, whose priority is 500."""
    app.connect("autodoc-process-docstring", escape_text, priority=400)
    app.connect("autodoc-skip-member", skip_foreign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
