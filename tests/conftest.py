"""Settings of the test run."""

import os

# scikit-learn's suite then runs one more check. SciPy reads it at its first import.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy  # noqa: E402, F401
import pytest  # noqa: E402
import torch  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

# The networks of the tests are small, and each core runs its own test process: further threads
# would only wait for each other.
torch.set_num_threads(1)
threadpool_limits(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests slow whose network is among the cases outside of the fast tier."""
    from tests.oracles.cases import FAST, IDS, Case

    rare = set(IDS) - FAST
    for item in items:
        callspec = getattr(item, "callspec", None)
        values = callspec.params.values() if callspec else ()
        if any(getattr(v, "name", v) in rare for v in values if isinstance(v, str | Case)):
            item.add_marker(pytest.mark.slow)
