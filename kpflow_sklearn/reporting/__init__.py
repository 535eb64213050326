"""The report of an analysis as an HTML page, and the texts that the command prints.

``_report`` puts the page together, and ``_templates`` fills the templates, which hold the text.
``page.html`` is the frame. Each block of ``kpflow.html``, ``alignment.html`` or ``gram.html`` is
one section for that analyzer, and each block of ``common.html`` one section for all. The ``.txt``
templates are paragraphs, which the command prints too. ``_kpflow``, ``_alignment``, ``_gram`` and
``_origin`` choose the facts for the sections, and the ``_reading`` files those for the paragraphs.
``_tables``, ``_pictures`` and ``_trajectories`` make the tables and figures.
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
