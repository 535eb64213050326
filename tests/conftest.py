"""Settings of the test run."""

import os

# scikit-learn's suite then runs one more check. SciPy reads it at its first import.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy  # noqa: E402, F401
import torch  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

# The networks of the tests are small, and each core runs its own test process: further threads
# would only wait for each other.
torch.set_num_threads(1)
threadpool_limits(1)
