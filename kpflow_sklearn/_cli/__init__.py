"""The command ``python -m kpflow_sklearn``.

``_main`` runs it, ``_options`` defines its options, and ``_tasks`` provides the trials.
"""

from kpflow_sklearn._cli._main import main

__all__ = ["main"]
