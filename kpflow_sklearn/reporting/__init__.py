"""One HTML page with everything, and what the command prints.

``_report`` puts the page together (``page.html`` is its template); ``_kpflow``, ``_alignment`` and
``_gram`` are the sections of each analyzer, ``_tables`` and ``_pictures`` what stands in them,
``_origin`` where the numbers come from; the ``_reading`` files say results in words.
"""

from kpflow_sklearn.reporting._reading import read_analysis_in_words, table_of
from kpflow_sklearn.reporting._reading_alignment import matrices_in_print, read_alignment_in_words
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
