"""Settings of the test run."""

import os

# scikit-learn's suite runs one more check with it; SciPy reads it when it is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy  # noqa: E402, F401
import torch  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

# The networks of the tests are small, and each core has a test process of its own: more threads
# than one only wait for each other, and for whatever else the machine is doing.
torch.set_num_threads(1)
threadpool_limits(1)
