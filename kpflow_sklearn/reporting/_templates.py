"""Fill the jinja templates of sentences and pages with facts."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


_TEMPLATES = Environment(
    loader=FunctionLoader(_read),
    autoescape=select_autoescape(),  # The .html templates are escaped, the .txt ones are not.
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["fmt"] = format


def say(name: str, **facts: Any) -> str:
    """Fill a template of plain text, and return it as one line."""
    return " ".join(_TEMPLATES.get_template(name).render(facts).split())


def render_page(name: str, **facts: Any) -> str:
    """Return a report as HTML; all facts are escaped.

    Each block of the template ``name``, then of common.html, is a section. The name of the block
    is its heading. Empty sections are left out.
    """
    facts["parts"] = _TEMPLATES.get_template("parts.html").module
    sections = {}
    for template in map(_TEMPLATES.get_template, (name, "common.html")):
        for block, write in template.blocks.items():
            if content := "".join(write(template.new_context(facts))).strip():
                sections[block] = Markup(content)
    return _TEMPLATES.get_template("page.html").render(facts, sections=sections) + "\n"
