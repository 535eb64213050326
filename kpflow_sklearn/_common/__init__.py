"""Helpers that all folders use; the files are imported by name.

``arrays`` converts user input to arrays and ``checks`` validates it. ``estimators`` is the base of
all estimators, ``brief`` shortens how they are printed, and ``callbacks`` reports the progress of
a fit. ``files`` writes files atomically, ``fingerprints`` identifies the data and code of a run,
``memory`` recovers from running out of memory, ``random`` makes generators, ``spacing`` chooses
evenly spaced indices, ``threads`` sets the number of threads, ``tensors`` converts to torch,
``modules`` reads torch modules, ``public`` hides private names from completion, and ``version``
holds the version of the package.
"""
