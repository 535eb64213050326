"""Helpers that all folders use; the files are imported by name.

``arrays`` converts user input to arrays and ``checks`` validates it. ``estimators`` is the base of
all estimators, and ``callbacks`` reports the progress of a fit. ``files`` writes files atomically,
``fingerprints`` identifies the data and code of a run, ``memory`` recovers from running out of
memory, ``random`` makes generators, ``tensors`` converts to torch, ``public`` hides private names
from completion, and ``version`` holds the version of the package.
"""
