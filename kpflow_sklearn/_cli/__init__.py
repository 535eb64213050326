"""The command ``python -m kpflow_sklearn``.

``_main`` runs it, ``_options`` are its options, ``_tasks`` the trials it trains on.
"""

from kpflow_sklearn._cli._main import main

__all__ = ["main"]
