"""One HTML page with everything, and the words that the command prints.

``_report`` puts the page together. Its words stand in templates: ``page.html`` is the frame,
``kpflow.html``, ``alignment.html`` and ``gram.html`` hold the sections of each analyzer, each
block one section, ``common.html`` those that every report has; the ``.txt`` templates are the
paragraphs that the command prints too. ``_kpflow``, ``_alignment``, ``_gram`` and ``_origin``
choose the facts of the sections, the ``_reading`` files those of the paragraphs; ``_tables`` and
``_pictures`` make what stands in sections, and ``_templates`` fills the templates.
"""

from kpflow_sklearn.reporting._reading_alignment import matrices_in_print, read_alignment_in_words
from kpflow_sklearn.reporting._reading_kpflow import read_analysis_in_words, table_of
from kpflow_sklearn.reporting._reading_training import (
    network_in_words,
    provenance_of,
    training_in_words,
)
from kpflow_sklearn.reporting._report import report

__all__ = [
    "matrices_in_print",
    "network_in_words",
    "provenance_of",
    "read_alignment_in_words",
    "read_analysis_in_words",
    "report",
    "table_of",
    "training_in_words",
]
